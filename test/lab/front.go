package lab

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A Front stands before an origin registry, relays to it and writes down each request: what a pull cost upstream.
type Front struct {
	Addr string
	URL  string

	t     testing.TB
	relay http.Handler

	mu     sync.Mutex // guards what follows
	log    []Exchange
	server *http.Server // nil while down
}

// An Exchange is one request that reached the front and how it was answered.
type Exchange struct {
	Method string
	Path   string
	Query  string
	Header http.Header
	Status int
	Bytes  int64 // of the body, as sent
}

// Kind is "ping", "manifests", "blobs", "tags", "referrers" or "other".
func (e Exchange) Kind() string {
	if strings.TrimSuffix(e.Path, "/") == "/v2" {
		return "ping"
	}
	parts := strings.Split(e.Path, "/")
	if len(parts) >= 4 {
		switch k := parts[len(parts)-2]; k {
		case "manifests", "blobs", "tags", "referrers":
			return k
		}
	}
	return "other"
}

// String is the exchange on one line, for messages.
func (e Exchange) String() string {
	return fmt.Sprintf("%s %s %s -> %d, %d bytes", e.Method, e.Path, e.Header.Get("Range"), e.Status, e.Bytes)
}

// NewFront starts a front for the origin at target. Each wrap, if given, goes around the relay in turn and
// may answer by itself.
func NewFront(t testing.TB, target string, wraps ...func(http.Handler) http.Handler) *Front {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	f := &Front{Addr: Addr(), t: t}
	f.URL = "http://" + f.Addr
	f.relay = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		FlushInterval: -1,
		// A client that leaves is the tests' business, not the log's.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	for _, wrap := range wraps {
		f.relay = wrap(f.relay)
	}
	f.Up()
	t.Cleanup(f.Down)
	return f
}

// Down makes the address refuse connections and cuts the open ones. Down twice is fine.
func (f *Front) Down() {
	f.mu.Lock()
	server := f.server
	f.server = nil
	f.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

// Up makes the address answer again.
func (f *Front) Up() {
	f.t.Helper()
	l, err := net.Listen("tcp", f.Addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.server = &http.Server{Handler: f}
	go func(s *http.Server) { _ = s.Serve(l) }(f.server)
}

// ServeHTTP relays one request and writes it down.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := Exchange{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header.Clone()}
	counted := &counter{ResponseWriter: w}
	defer func() {
		e.Status, e.Bytes = counted.status, counted.bytes
		f.mu.Lock()
		defer f.mu.Unlock()
		f.log = append(f.log, e)
	}()
	f.relay.ServeHTTP(counted, r)
}

// Requests returns what was asked since the last Reset, in the order in which the answers ended.
func (f *Front) Requests() []Exchange {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// Reset forgets what was asked so far.
func (f *Front) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = nil
}

// Bodies counts the answered GETs of blobs by digest, and the bytes of all of them together.
func (f *Front) Bodies() (gets map[string]int, bytes int64) {
	gets = map[string]int{}
	for _, e := range f.Requests() {
		if e.Method == http.MethodGet && e.Kind() == "blobs" && e.Status/100 == 2 {
			gets[e.Path[strings.LastIndex(e.Path, "/")+1:]]++
			bytes += e.Bytes
		}
	}
	return gets, bytes
}

// counter remembers the status and the length of an answer.
type counter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (c *counter) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	n, err := c.ResponseWriter.Write(p)
	c.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach Flush.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
