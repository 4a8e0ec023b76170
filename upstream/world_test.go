package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// world is an Internet behind a proxy: every host name, plain or TLS, is
// answered by it, by a handler of that host or by a sink. It records what it
// was asked.
type world struct {
	hosts map[string]http.Handler // by "scheme://host[:port]" as in the Host header
	roots *x509.CertPool
	proxy *url.URL

	mu   sync.Mutex // guards seen
	seen []hit
}

// hit is one request as a host saw it.
type hit struct{ origin, method, uri, authorization, cookie, rng string }

func newWorld(t *testing.T, hosts map[string]http.Handler) *world {
	t.Helper()
	w := &world{hosts: hosts}
	var authority *certAuthority
	authority, w.roots = newCertAuthority(t)
	inner := httptest.NewUnstartedServer(w.handler("https"))
	inner.TLS = &tls.Config{GetCertificate: authority.certificate}
	inner.StartTLS()
	t.Cleanup(inner.Close)
	plain := w.handler("http")
	outer := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			splice(rw, inner.Listener.Addr().String())
			return
		}
		plain.ServeHTTP(rw, r)
	}))
	t.Cleanup(outer.Close)
	w.proxy = parseURL(t, outer.URL)
	return w
}

func (w *world) handler(scheme string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		origin := scheme + "://" + r.Host
		w.mu.Lock()
		w.seen = append(w.seen, hit{origin, r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.Header.Get("Range")})
		w.mu.Unlock()
		if h := w.hosts[origin]; h != nil {
			h.ServeHTTP(rw, r)
			return
		}
		_, _ = io.WriteString(rw, `{"token":"sink"}`)
	})
}

// hits gives what was asked of an origin; "" for all.
func (w *world) hits(origin string) []hit {
	w.mu.Lock()
	defer w.mu.Unlock()
	if origin == "" {
		return slices.Clone(w.seen)
	}
	var out []hit
	for _, h := range w.seen {
		if h.origin == origin {
			out = append(out, h)
		}
	}
	return out
}

// options reach the world and trust it.
func (w *world) options(endpoints ...string) Options {
	return Options{
		Name: "test", Endpoints: endpoints, RootCAs: w.roots, Network: "private",
		Proxy: func(*http.Request) (*url.URL, error) { return w.proxy, nil },
	}
}

// splice answers a CONNECT by joining the client with another address.
func splice(rw http.ResponseWriter, addr string) {
	up, err := net.Dial("tcp", addr)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = up.Close() }()
	down, _, err := rw.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = down.Close() }()
	_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(up, down)
		_ = up.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(down, up)
	_ = down.Close()
	wg.Wait()
}

// certAuthority signs a certificate for whatever name it is asked.
type certAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCertAuthority(t *testing.T) (*certAuthority, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &certAuthority{cert, key}, pool
}

func (a *certAuthority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter}
	if hello.ServerName != "" {
		tmpl.DNSNames = []string{hello.ServerName}
	}
	tmpl.IPAddresses = []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP("::1"), net.ParseIP("10.0.0.1"), net.ParseIP("203.0.113.7")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// ---- small helpers

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// open makes an upstream that is closed with the test.
func open(t *testing.T, o Options) *Upstream {
	t.Helper()
	if o.Name == "" {
		o.Name = "test"
	}
	if o.Proxy == nil {
		o.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	u, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

// serve starts a plain server for the test.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func static(c Credentials) func(context.Context) (Credentials, error) {
	return func(context.Context) (Credentials, error) { return c, nil }
}

func contains(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

var zeroTime time.Time

// quiet is a log for servers whose complaints are the point of a test.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
