package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// errProxy marks failures of the configured proxy.
var errProxy = errors.New("proxy")

type proxyKey struct{}

// wire is the one way out: two transports, of which one only ever dials the
// configured proxy and is therefore exempt from the guard. HTTP/1.1 only:
// ranges over one HTTP/2 connection gain nothing (DESIGN.md section 4).
type wire struct {
	direct, proxied *http.Transport
	proxy           func(*http.Request) (*url.URL, error)
	guard           *guard
	counts          *counters
}

func newWire(o Options, g *guard, counts *counters) *wire {
	w := &wire{proxy: o.Proxy, guard: g, counts: counts}
	guarded := &net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: 30 * time.Second, ControlContext: g.control}
	open := &net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: 30 * time.Second}
	w.direct, w.proxied = w.transport(o, guarded), w.transport(o, open)
	w.proxied.Proxy = func(r *http.Request) (*url.URL, error) {
		u, _ := r.Context().Value(proxyKey{}).(*url.URL)
		if u == nil {
			return nil, errProxy
		}
		return u, nil
	}
	return w
}

func (w *wire) transport(o Options, d *net.Dialer) *http.Transport {
	config := &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12}
	return &http.Transport{
		DialContext:            w.dial(d),
		DialTLSContext:         w.dialTLS(d, config, o.HeaderTimeout),
		TLSClientConfig:        config,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSHandshakeTimeout:    o.HeaderTimeout,
		ResponseHeaderTimeout:  o.HeaderTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    o.MaxConnections,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
	}
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// socket dials and counts.
func (w *wire) socket(ctx context.Context, d *net.Dialer, network, addr string) (*socket, error) {
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.counts.opened.Add(1)
	w.counts.active.Add(1)
	return &socket{Conn: c, counts: w.counts}, nil
}

// dial is for plain http, and for what net/http puts TLS on itself: proxies.
func (w *wire) dial(d *net.Dialer) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		s, err := w.socket(ctx, d, network, addr)
		if err != nil {
			return nil, err
		}
		return newFramedConn(s, s), nil
	}
}

// dialTLS is for https without a proxy.
func (w *wire) dialTLS(d *net.Dialer, config *tls.Config, limit time.Duration) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		s, err := w.socket(ctx, d, network, addr)
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(addr)
		if err == nil {
			config := config.Clone()
			config.ServerName = strings.TrimSuffix(host, ".")
			c := tls.Client(s, config)
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			if err = c.HandshakeContext(ctx); err == nil {
				return newFramedConn(c, s), nil
			}
		}
		_ = s.Close() // the handshake's error is the one that counts
		return nil, fmt.Errorf("TLS with %s: %w", addr, err)
	}
}

// roundTrip sends one request, by the proxy if one is configured for its URL.
// It follows nothing and reads no body. Its errors hold no URL: a proxy's may
// carry a password, a redirect's its signature.
func (w *wire) roundTrip(r *http.Request) (*http.Response, error) {
	p, err := w.proxy(r)
	if err != nil {
		return nil, fmt.Errorf("%w: the proxy setting of the environment is not a URL", errProxy)
	}
	if p == nil {
		return w.direct.RoundTrip(r)
	}
	if err := w.guard.checkHost(r.URL.Hostname()); err != nil {
		return nil, err
	}
	resp, err := w.proxied.RoundTrip(r.WithContext(context.WithValue(r.Context(), proxyKey{}, p)))
	if err != nil {
		return nil, w.proxyFailed(p, err)
	}
	if resp.StatusCode == http.StatusProxyAuthRequired {
		_ = resp.Body.Close() // the answer is the proxy's, and of no use
		return nil, fmt.Errorf("%w %s asks for credentials (407)", errProxy, p.Host)
	}
	return resp, nil
}

// proxyFailed names the proxy in a failure, as lasting where it is the proxy
// itself that fails, and not what lies behind it.
func (w *wire) proxyFailed(p *url.URL, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "proxyconnect" {
		return fmt.Errorf("%w %s: %w", errProxy, p.Host, err)
	}
	return fmt.Errorf("by proxy %s: %w", p.Host, err)
}

func (w *wire) close() {
	w.direct.CloseIdleConnections()
	w.proxied.CloseIdleConnections()
}
