package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Options describe one upstream. Name and Endpoints are required; every other
// field works as its zero value.
type Options struct {
	// Name as configured; the metric label and the first word of messages.
	Name string
	// Endpoints are base URLs, tried in order. Their scheme is http or https;
	// a path is a prefix before /v2.
	Endpoints []string
	// Credentials gives the account; nil: anonymous. It is called when an
	// upstream first asks for one, then every few minutes while in use, and
	// when what it gave was refused: a helper program behind it is not run for
	// each request. It gets 15 s.
	Credentials func(ctx context.Context) (Credentials, error)
	// TokenHosts are host[:port] that may see the credentials, beyond the
	// endpoints' own hosts and the built-in ones of known registries.
	TokenHosts []string
	// Network is "auto" (also ""), "public" or "private": which addresses
	// redirects and realms may lead to (DESIGN.md section 6).
	Network string
	// RootCAs are the certificate authorities for every host that this
	// upstream leads to, content hosts included; nil: the system's.
	RootCAs *x509.CertPool
	// MaxConnections bounds the requests and open bodies; 0: 32. An eighth of
	// them is not given to blobs, so that long fills never hold up manifests.
	MaxConnections int
	// ConnectTimeout is for TCP (0: 5 s), HeaderTimeout for the TLS handshake
	// and for the response header (0: 10 s), StallTimeout the longest wait for
	// the next byte of a body (0: 10 s).
	ConnectTimeout, HeaderTimeout, StallTimeout time.Duration
	// UserAgent; "": "cistern".
	UserAgent string
	// Proxy chooses an HTTP(S) or SOCKS proxy; nil: http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
}

func (o Options) withDefaults() Options {
	setDefault(&o.Network, "auto")
	setDefault(&o.MaxConnections, 32)
	setDefault(&o.ConnectTimeout, 5*time.Second)
	setDefault(&o.HeaderTimeout, 10*time.Second)
	setDefault(&o.StallTimeout, 10*time.Second)
	setDefault(&o.UserAgent, "cistern")
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// parseEndpoints checks the base URLs, all at once.
func parseEndpoints(raw []string) ([]*url.URL, error) {
	if len(raw) == 0 {
		return nil, errors.New("endpoints: at least one base URL is needed")
	}
	var urls []*url.URL
	var errs []error
	for _, s := range raw {
		u, err := parseEndpoint(s)
		if err != nil {
			errs = append(errs, err)
		}
		urls = append(urls, u)
	}
	return urls, errors.Join(errs...)
}

// parseEndpoint never repeats the URL's text in an error before it is known
// to hold no password.
func parseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("endpoints: not a URL: want https://HOST[:PORT]")
	case u.User != nil:
		return nil, fmt.Errorf("endpoints: the URL of %s holds credentials: use username and password_file", u.Host)
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, fmt.Errorf("endpoints: %q: want https://HOST[:PORT], or http:// for a registry without TLS", s)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("endpoints: %q: no query or fragment is allowed", s)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}
