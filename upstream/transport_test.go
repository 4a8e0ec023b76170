package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cistern/internal/oci"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("%s", r.Proto)
		}
		_, _ = io.WriteString(w, "{}")
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	for range 3 {
		u := open(t, Options{Endpoints: []string{s.URL}, RootCAs: pool})
		for range 5 {
			if err := tags(u, "a/b"); err != nil {
				t.Fatal(err)
			}
		}
		if n := u.Stats().ConnectionsOpened; n != 1 {
			t.Errorf("%d connections", n)
		}
	}
	var asked atomic.Int64
	u := open(t, Options{Endpoints: []string{s.URL}})
	err := tags(u, "a/b")
	asked.Add(int64(u.Stats().ConnectionsOpened))
	if !errors.Is(err, oci.ErrUnavailable) || asked.Load() != 1 || u.Healthy() {
		t.Errorf("unknown authority: %v after %d connections", err, asked.Load())
	}
	contains(t, err, "certificate", "Acme Co", "ca_file")
	contains(t, tags(open(t, Options{Endpoints: []string{strings.Replace(s.URL, "https", "http", 1)}}), "a/b"), "400")
	plain := serve(t, code(200))
	contains(t, tags(open(t, Options{Endpoints: []string{strings.Replace(plain, "http", "https", 1)}}), "a/b"), "does not speak TLS")
	old := httptest.NewUnstartedServer(code(200))
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11}
	old.Config.ErrorLog = quiet()
	old.StartTLS()
	t.Cleanup(old.Close)
	if err := tags(open(t, Options{Endpoints: []string{old.URL}, RootCAs: pool}), "a/b"); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("TLS 1.1: %v", err)
	}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	w := newWorld(t, map[string]http.Handler{"https://registry.example.com": answer, "http://registry.example.com": answer})
	for _, endpoint := range []string{"https://registry.example.com", "http://registry.example.com"} {
		o := w.options(endpoint)
		o.Network = "public" // the proxy itself, on loopback, is exempt
		if err := tags(open(t, o), "a/b"); err != nil {
			t.Error(err)
		}
	}
	if len(w.hits("")) != 2 {
		t.Errorf("hits %v", w.hits(""))
	}
	deny := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) })
	for _, proxy := range []string{"http://user:SECRET@" + deadAddress(t), strings.Replace(deny, "http://", "http://user:SECRET@", 1)} {
		for _, endpoint := range []string{"https://registry.example.com", "http://registry.example.com"} {
			p := parseURL(t, proxy)
			err := tags(open(t, Options{Endpoints: []string{endpoint}, Proxy: func(*http.Request) (*url.URL, error) { return p, nil }}), "a/b")
			contains(t, err, "proxy", p.Host)
			if strings.Contains(err.Error(), "SECRET") || !errors.Is(err, oci.ErrUnavailable) {
				t.Error(err)
			}
		}
	}
	bad := func(*http.Request) (*url.URL, error) { return nil, errors.New("SECRET") }
	if err := tags(open(t, Options{Endpoints: []string{"http://x.example"}, Proxy: bad}), "a/b"); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Error(err)
	}
}

// TestSecret: no way of printing gives a secret away.
func TestSecret(t *testing.T) {
	t.Parallel()
	c := canary()
	j, err := json.Marshal(map[string]any{"a": c, "b": &c, "c": c.Password})
	if err != nil {
		t.Fatal(err)
	}
	out := string(j)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		out += fmt.Sprintf(verb, c.Password) + fmt.Sprintf(verb, c) + fmt.Sprintf(verb, &c) + fmt.Sprintf(verb, []Secret{c.Password})
	}
	if strings.Contains(out, canaryPassword) || strings.Contains(out, fmt.Sprintf("%x", canaryPassword)) || c.Password.Reveal() != canaryPassword {
		t.Error(out)
	}
}

// TestEchoedSecrets: an upstream that repeats what we sent does not get it
// into an error or the status display.
func TestEchoedSecrets(t *testing.T) {
	t.Parallel()
	u := open(t, Options{Credentials: static(canary()), Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, password, ok := r.BasicAuth()
		if !ok {
			challenging(`Basic realm="r"`).ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprintf(w, `{"errors":[{"code":"%s","message":"%s","detail":"%s"}]}`, password, r.Header.Get("Authorization"), password)
	})}})
	err := tags(u, "a/b")
	if s := fmt.Sprintf("%v %+v", err, u.Stats()); !errors.Is(err, oci.ErrDenied) || strings.Contains(s, canaryPassword) || strings.Contains(s, "Basic ") {
		t.Error(s)
	}
}

func TestOptionErrors(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]Options{
		"at least one":       {},
		"not a URL":          {Endpoints: []string{"https://%zz"}},
		"want https://HOST":  {Endpoints: []string{"registry.example.com"}},
		"holds credentials":  {Endpoints: []string{"https://u:SECRET@x.example"}},
		"no query":           {Endpoints: []string{"https://x.example?a=b"}},
		"network":            {Endpoints: []string{"https://x.example"}, Network: "lan"},
		"token_hosts":        {Endpoints: []string{"https://x.example"}, TokenHosts: []string{"https://a"}},
		"max_connections":    {Endpoints: []string{"https://x.example"}, MaxConnections: -1},
		"upstream docker.io": {},
	} {
		o.Name = "docker.io"
		_, err := New(o)
		contains(t, err, want)
		if strings.Contains(err.Error(), "SECRET") {
			t.Error(err)
		}
	}
}

// TestClose: bodies that are open are cut, and calls end.
func TestClose(t *testing.T) {
	t.Parallel()
	u := open(t, Options{Endpoints: []string{script(t, []step{expect(nil), send(whole("10", "0"))})}})
	b, err := u.Blob(context.Background(), "a/b", oci.FromBytes([]byte(digits)), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := io.ReadAll(b); done <- err }()
	u.Close()
	if err := <-done; !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if err := tags(u, "a/b"); !errors.Is(err, errClosed) {
		t.Error(err)
	}
	u.Close()
}

func TestSet(t *testing.T) {
	t.Parallel()
	a, err := New(Options{Name: "a", Endpoints: []string{"https://a.example"}, Credentials: static(Credentials{})})
	if err != nil {
		t.Fatal(err)
	}
	s := NewSet(a)
	t.Cleanup(s.Close)
	if got, ok := s.Get("a"); !ok || got != a || len(s.All()) != 1 || !got.HasCredentials() || got.Name() != "a" || !got.Healthy() {
		t.Error("a is not there")
	}
	if _, ok := s.Get("b"); ok {
		t.Error("b is there")
	}
}

func TestFramer(t *testing.T) {
	t.Parallel()
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n"
	for _, tc := range []struct{ method, text string }{
		{"GET", whole("10", digits)},
		{"GET", "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + whole("10", digits)},
		{"HEAD", whole("10", "")},
		{"GET", status("404 x")},
		{"GET", "HTTP/1.1 204 x\r\n\r\n"},
		{"GET", "HTTP/1.1 304 x\r\nContent-Length: 10\r\n\r\n"},
		{"GET", chunked},
		{"GET", strings.ReplaceAll(whole("10", digits), "\r\n", "\n")},
	} {
		for step := 1; step <= len(tc.text)+5; step += 3 {
			f := framer{}
			f.begin(tc.method)
			all, used := tc.text+"surplus", 0
			for rest := all; len(rest) > 0; {
				n := f.take([]byte(rest[:min(step, len(rest))]))
				used += n
				if n < min(step, len(rest)) {
					break
				}
				rest = rest[n:]
			}
			if used != len(tc.text) || !f.done() {
				t.Errorf("%s %q by %d: took %d of %d", tc.method, tc.text, step, used, len(tc.text))
			}
		}
	}
	for _, open := range []string{"HTTP/1.1 200 OK\r\n\r\n", "garbage\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"} {
		f := framer{}
		f.begin("GET")
		if f.take([]byte(open)); f.state != frameRest || f.take(make([]byte, 99)) != 99 {
			t.Errorf("%q ends", open)
		}
	}
}

func FuzzFramer(f *testing.F) {
	f.Add([]byte(whole("10", digits)), uint8(3))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		whole, parts := framer{}, framer{}
		whole.begin("GET")
		parts.begin("GET")
		want, got := whole.take(b), 0
		for rest := b; len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			took := parts.take(rest[:n])
			if took < 0 || took > n {
				t.Fatalf("took %d of %d", took, n)
			}
			got += took
			if took < n {
				break
			}
			rest = rest[n:]
		}
		if want != got || whole.state != parts.state {
			t.Fatalf("%q: %d whole, %d in parts of %d", b, want, got, step)
		}
	})
}

// TestTLSSurplus is TestSurplus under TLS, where bytes may also wait decrypted.
func TestTLSSurplus(t *testing.T) {
	t.Parallel()
	forged := "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"x\":66}"
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			_, _ = io.WriteString(w, "{}")
			return
		}
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.Close() }()
		big := strings.Repeat("x", 10<<10)
		_, _ = io.WriteString(c, whole("10240", big)+forged)
		_, _ = io.Copy(io.Discard, c)
	}))
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	u := open(t, Options{Endpoints: []string{s.URL}, RootCAs: pool})
	for range 50 {
		b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte(digits)), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if n, err := got.ReadFrom(b); n != 10<<10 || err != nil {
			t.Fatalf("%d %v", n, err)
		}
		if d, err := u.Tags(t.Context(), "a/b", -1, ""); err != nil || string(d.Bytes) != "{}" {
			t.Fatalf("%+v %v", d, err)
		}
	}
}

func TestHeaderTimeoutEndsTheCall(t *testing.T) {
	t.Parallel()
	u := open(t, Options{Endpoints: []string{script(t, []step{expect(nil)})}, HeaderTimeout: 100 * time.Millisecond})
	start := time.Now()
	err := tags(u, "a/b")
	if !errors.Is(err, oci.ErrUnavailable) || time.Since(start) > 2*time.Second || u.Healthy() {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}
