package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"cistern/internal/oci"
	"cistern/internal/registrytest"
)

// raw sends a request as it stands and reads the status line.
func (r *rig) raw(request string) (status int, header http.Header) {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.Listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header
}

// TestOddRequests: what net/http lets pass and no registry serves (FAULTS 0.8).
// None of it reaches upstream.
func TestOddRequests(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	d := oci.FromBytes([]byte("x")).String()
	for line, want := range map[string]int{
		"POST /v2/a/b/blobs/uploads/":                          405,
		"POST /docker.io/v2/a/b/blobs/uploads/":                405,
		"PUT /v2/a/b/manifests/x":                              405,
		"PATCH /v2/a/b/blobs/uploads/x":                        405,
		"DELETE /v2/a/b/manifests/x":                           405,
		"DELETE /v2/quay.io/b/manifests/x":                     405,
		"OPTIONS /v2/":                                         405,
		"TRACE /v2/":                                           405,
		"FOOBAR /v2/a/b/manifests/x":                           405,
		"POST /":                                               405,
		"GET http://evil.example/v2/a/b/manifests/x":           400,
		"GET http://127.0.0.1:1/":                              400,
		"CONNECT evil.example:443":                             400,
		"GET /v2/a/b/blobs/" + d + "%00":                       400,
		"GET /v2/..%2f..%2fetc/passwd/manifests/x":             400,
		"GET /v2/a/%2e%2e/b/manifests/x":                       400,
		"GET /v2//a/b/manifests/x":                             400,
		"GET /v2/a//b/manifests/x":                             400,
		"GET /v2/a/b/manifests/..%2fx":                         400,
		"GET //v2/a/b/manifests/x":                             404,
		"GET /../v2/a/b/manifests/x":                           404,
		"GET /v2/a/b/manifests/" + strings.Repeat("x", 200):    400,
		"GET /v2/" + strings.Repeat("a/", 200) + "manifests/x": 400,
	} {
		if got, _ := r.raw(line + " HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n"); got != want {
			t.Errorf("%.60s: %d, want %d", line, got, want)
		}
	}
	if status, h := r.raw("PUT /v2/a/b/manifests/x HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"); status != 405 || h.Get("Allow") == "" {
		t.Errorf("%d %v", status, h)
	}
	for _, k := range oci.Kinds() {
		if asked := g.Asked(k); len(asked) != 0 {
			t.Errorf("upstream was asked %+v", asked)
		}
	}
}

// TestHeadIsGet: the same header for both, cold and warm (P 3.6).
func TestHeadIsGet(t *testing.T) {
	t.Parallel()
	for _, order := range [][]string{{"HEAD", "GET", "HEAD"}, {"GET", "HEAD", "GET"}} {
		g := registrytest.New(t)
		small, large := g.Put("a/b", noise(100, 50)), g.Put("a/b", noise(2<<20, 50))
		m := g.PutImage("a/b", "v1", noise(100, 50))
		r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
		for _, path := range []string{"/v2/", "/", "/v2/a/b/manifests/v1", "/v2/a/b/manifests/" + m.String(), "/v2/a/b/blobs/" + small.String(), "/v2/a/b/blobs/" + large.String(), "/v2/a/b/tags/list"} {
			var first string
			for _, method := range order {
				a := r.do(method, path)
				for _, k := range []string{"Date", "Age", "Cache-Status"} { // these may tell them apart
					a.header.Del(k)
				}
				got := fmt.Sprint(a.status, a.header)
				if first == "" {
					first = got
				}
				if got != first || a.status != 200 {
					t.Errorf("%s %s:\n%s, not\n%s", method, path, got, first)
				}
			}
		}
	}
}

// TestConditional: validators of manifests and blobs, small and large, cold and
// warm. What cannot be satisfied of a range matters only if the range counts.
func TestConditional(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	small, large := g.Put("a/b", noise(1000, 51)), g.Put("a/b", noise(2<<20, 51))
	g.PutImage("a/b", "v1", noise(1000, 51))
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	if a := r.get("/v2/a/b/manifests/v1"); true {
		for _, tag := range []string{a.header.Get("Etag"), "W/" + a.header.Get("Etag"), `"x", ` + a.header.Get("Etag"), "*"} {
			if b := r.get("/v2/a/b/manifests/v1", "If-None-Match", tag); b.status != 304 || len(b.body) != 0 || b.header.Get("Etag") == "" {
				t.Errorf("manifest, %s: %d", tag, b.status)
			}
		}
		if b := r.get("/v2/a/b/manifests/v1", "If-None-Match", `"other"`); b.status != 200 {
			t.Errorf("manifest, another tag: %d", b.status)
		}
		if b := r.get("/v2/a/b/manifests/v1", "Range", "bytes=0-1"); b.status != 200 || !bytes.Equal(a.body, b.body) {
			t.Errorf("manifest, a range: %d", b.status)
		}
	}
	for _, d := range []oci.Digest{small, large} {
		tag := `"` + d.String() + `"`
		for round := range 2 {
			for _, c := range []struct {
				status int
				header []string
			}{
				{304, []string{"If-None-Match", tag}},
				{304, []string{"If-None-Match", tag, "Range", "bytes=0-1"}},
				{304, []string{"If-None-Match", tag, "Range", "bytes=99999999-"}},
				{200, []string{"If-None-Match", `"x"`}},
				{206, []string{"If-Range", tag, "Range", "bytes=5-9"}},
				{200, []string{"If-Range", `"x"`, "Range", "bytes=5-9"}},
				{200, []string{"If-Range", `"x"`, "Range", "bytes=99999999-"}},
				{416, []string{"If-Range", tag, "Range", "bytes=99999999-"}},
				{200, []string{"If-Match", tag}},
				{412, []string{"If-Match", `"x"`}},
				{200, []string{"If-Modified-Since", "Mon, 02 Jan 2006 15:04:05 GMT"}},
			} {
				a := r.get("/v2/a/b/blobs/"+d.String(), c.header...)
				if a.status != c.status || a.err != nil || c.status == 200 && oci.FromBytes(a.body) != d || c.status == 304 && len(a.body) > 0 {
					t.Errorf("round %d, %v: %d, %d bytes, %v", round, c.header, a.status, len(a.body), a.err)
				}
			}
		}
	}
}

// TestLinks walks a list of three pages in each dialect: every next page is on
// this proxy, in the same dialect (P 3.23).
func TestLinks(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	for i := range 5 {
		g.PutImage("org/x", fmt.Sprint("v", i), noise(10, 52))
	}
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g, "ghcr.io": g}})
	for _, start := range []string{
		"/v2/org/x/tags/list?n=2", "/v2/org/x/tags/list?n=2&ns=docker.io", "/v2/org/x/tags/list?n=2&ns=ghcr.io",
		"/ghcr.io/v2/org/x/tags/list?n=2", "/ghcr.io/v2/org/x/tags/list?n=2&ns=ghcr.io",
		"/v2/ghcr.io/org/x/tags/list?n=2", "/v2/ghcr.io/org/x/tags/list?n=2&ns=ghcr.io",
	} {
		var tags []string
		path, pages := start, 0
		for ; path != "" && pages < 9; pages++ {
			a := r.get(path)
			var list struct{ Tags []string }
			if err := json.Unmarshal(a.body, &list); err != nil || a.status != 200 {
				t.Fatalf("%s: %d, %v", path, a.status, err)
			}
			tags = append(tags, list.Tags...)
			path = nextPath(t, start, a.header.Get("Link"))
		}
		if pages != 3 || !slices.Equal(tags, []string{"v0", "v1", "v2", "v3", "v4"}) {
			t.Errorf("%s: %d pages, %v", start, pages, tags)
		}
	}
	if a := r.get("/v2/org/x/tags/list?n=0"); a.status != 200 || a.header.Get("Link") != "" || !strings.Contains(string(a.body), `"tags":[]`) {
		t.Errorf("n=0: %d %s", a.status, a.body)
	}
	if a := r.get("/v2/org/x/tags/list?n=9223372036854775807"); a.status != 200 {
		t.Errorf("a huge n: %d", a.status)
	}
}

// nextPath reads a Link and compares its dialect with the first page's.
func nextPath(t *testing.T, start, link string) string {
	t.Helper()
	if link == "" {
		return ""
	}
	target, ok := strings.CutPrefix(link, "<")
	target, ok2 := strings.CutSuffix(target, `>; rel="next"`)
	next, err := url.Parse(target)
	first, _ := url.Parse(start)
	if !ok || !ok2 || err != nil || next.Host != "" || next.Scheme != "" || next.Path != first.Path || next.Query().Get("ns") != first.Query().Get("ns") {
		t.Fatalf("%s: Link %s", start, link)
	}
	return target
}

// TestAccept: a client that does not take what the superset brings gets what
// its own Accept brings, and nothing of that is kept (P 3.11).
func TestAccept(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	d := g.PutImage("a/b", "v1", noise(10, 53))
	var mu sync.Mutex
	substitutes := 0
	g.Before = func(w http.ResponseWriter, r *http.Request) bool {
		accept := strings.Join(r.Header["Accept"], ",")
		if !strings.HasSuffix(r.URL.Path, "/manifests/v1") || strings.Contains(accept, oci.MediaTypeOCIManifest) {
			return false
		}
		if !strings.Contains(accept, oci.MediaTypeDockerManifest) {
			w.WriteHeader(404)
			return true
		}
		mu.Lock()
		substitutes++
		mu.Unlock()
		w.Header().Set("Content-Type", oci.MediaTypeDockerManifest)
		_, _ = io.WriteString(w, `{"schemaVersion":2,"mediaType":"`+oci.MediaTypeDockerManifest+`","config":{},"layers":[]}`)
		return true
	}
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	for round := range 2 {
		if a := r.get("/v2/a/b/manifests/v1", "Accept", oci.MediaTypeDockerManifest); a.status != 200 || a.header.Get("Content-Type") != oci.MediaTypeDockerManifest || !strings.Contains(a.header.Get("Cache-Status"), "not-stored") {
			t.Errorf("round %d, narrow: %d %v", round, a.status, a.header)
		}
		if a := r.get("/v2/a/b/manifests/v1", "Accept", "text/plain"); a.status != 404 {
			t.Errorf("round %d, what upstream has no answer to: %d", round, a.status)
		}
		for _, accept := range []string{"", "*/*", "application/*", oci.MediaTypeOCIManifest, "text/plain, " + oci.MediaTypeOCIManifest + ";q=0.5"} {
			header := []string{"Accept", accept}
			if accept == "" {
				header = nil
			}
			if a := r.get("/v2/a/b/manifests/v1", header...); a.status != 200 || oci.FromBytes(a.body) != d {
				t.Errorf("round %d, Accept %q: %d %v", round, accept, a.status, a.header)
			}
		}
		if a := r.get("/v2/a/b/manifests/"+d.String(), "Accept", "text/plain"); a.status != 200 || oci.FromBytes(a.body) != d { // P 3.12
			t.Errorf("round %d, by digest: %d", round, a.status)
		}
	}
	if substitutes != 2 {
		t.Errorf("upstream was asked %d times for the narrow form", substitutes)
	}
}

// TestFiltersAreNotMixedUp: one filter with a space in it is not two.
func TestFiltersAreNotMixedUp(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	g.Before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		w.Header().Set("Content-Type", oci.MediaTypeOCIIndex)
		fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"manifests":[],"annotations":{"filters":"%d"}}`, oci.MediaTypeOCIIndex, len(r.URL.Query()["artifactType"]))
		return true
	}
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	path := "/v2/a/b/referrers/" + oci.FromBytes(nil).String()
	one, two := r.get(path+"?artifactType=x+y"), r.get(path+"?artifactType=y&artifactType=x")
	if one.status != 200 || two.status != 200 || bytes.Equal(one.body, two.body) {
		t.Errorf("%d %s, %d %s", one.status, one.body, two.status, two.body)
	}
}

// logged is a handler whose access log is kept as JSON lines.
func logged(t *testing.T, g *registrytest.Registry) (*rig, func() []map[string]any) {
	t.Helper()
	var mu sync.Mutex
	var buf bytes.Buffer
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	r.handler.log = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"}), zapcore.Lock(zapcore.AddSync(&locked{&mu, &buf})), zap.DebugLevel))
	return r, func() (lines []map[string]any) {
		mu.Lock()
		defer mu.Unlock()
		for s := range strings.Lines(buf.String()) {
			var line map[string]any
			if err := json.Unmarshal([]byte(s), &line); err != nil {
				t.Errorf("%q: %v", s, err)
			}
			lines = append(lines, line)
		}
		return lines
	}
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// TestAccessLog: one line a request, whatever it is, with what the operator
// wants to know.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	d := g.PutImage("a/b", "v1", noise(10, 54))
	r, lines := logged(t, g)
	requests := 0
	serve := func(method, target string, header http.Header) {
		req := httptest.NewRequest("GET", "/", nil)
		req.Method, req.Header, req.RequestURI = method, header, target
		if u, err := url.ParseRequestURI(target); err == nil {
			req.URL = u
		}
		requests++
		defer func() { _ = recover() }() // a cut answer
		r.handler.ServeHTTP(httptest.NewRecorder(), req)
	}
	serve("GET", "/v2/a/b/manifests/v1", http.Header{"User-Agent": {"docker\n{\"msg\":\"forged\"}"}})
	for b := range 256 {
		c := string([]byte{byte(b)})
		serve("GET", "/v2/a"+url.PathEscape(c)+"/b/manifests/x"+url.PathEscape(c), http.Header{"User-Agent": {c}})
		serve("M"+c, "/v2/", nil)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	req := httptest.NewRequestWithContext(gone, "GET", "/v2/a/b/manifests/v2", nil)
	func() {
		requests++
		defer func() { _ = recover() }()
		r.handler.ServeHTTP(httptest.NewRecorder(), req)
	}()
	got := lines()
	if len(got) != requests {
		t.Fatalf("%d lines for %d requests", len(got), requests)
	}
	for k, want := range map[string]any{
		"method": "GET", "kind": "manifest", "status": 200.0, "outcome": "miss", "upstream": "docker.io", "repository": "a/b", "reference": "v1",
		"client": "192.0.2.1", "msg": "request",
	} {
		if got[0][k] != want {
			t.Errorf("%s is %v, want %v", k, got[0][k], want)
		}
	}
	for _, k := range []string{"bytes", "duration", "user_agent"} {
		if got[0][k] == nil {
			t.Errorf("no %s", k)
		}
	}
	if s := got[len(got)-1]["status"]; s != float64(statusClientGone) {
		t.Errorf("a client that left: %v", s)
	}
	_ = d
}

// TestNoNewSeries: what clients send makes no series (FAULTS 3c).
func TestNoNewSeries(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	known := map[string]bool{"docker.io": true, "": true}
	for i := range 10000 {
		method := []string{"GET", "POST", fmt.Sprint("M", i)}[i%3]
		target := []string{"/v2/x.y%d/a/manifests/1", "/v2/A%d/b/manifests/1", "/%d", "/v2/a/b/manifests/1?ns=n%d", "/v2/h%d:1/a/blobs/x"}[i%5]
		req := httptest.NewRequest("GET", fmt.Sprintf(target, i), nil)
		req.Method = method
		req.Header.Set("User-Agent", fmt.Sprint("agent", i))
		req.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)
		r.handler.ServeHTTP(httptest.NewRecorder(), req)
	}
	s := r.handler.Stats()
	if len(s.Requests) > 60 || s.Clients > maxClients || len(r.handler.Clients()) > maxClients {
		t.Errorf("%d series, %d clients", len(s.Requests), s.Clients)
	}
	var total uint64
	for _, q := range s.Requests {
		total += q.N
		if !known[q.Upstream] {
			t.Errorf("upstream %q", q.Upstream)
		}
	}
	if total != 10000 {
		t.Errorf("%d requests counted", total)
	}
}

// TestAbortedRanges: a client that takes the first bytes of each range and
// leaves is normal, disturbs no fill, and leaves nothing behind (P 2.16).
func TestAbortedRanges(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	data := noise(8<<20, 55)
	d := g.Put("a/b", data)
	rest := make(chan struct{})
	var whole atomic.Int32
	g.Before = func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r) || r.Header.Get("Range") != "" {
			return false
		}
		whole.Add(1)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:4<<20])
		w.(http.Flusher).Flush()
		<-rest
		_, _ = w.Write(data[4<<20:])
		return true
	}
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			req, err := http.NewRequestWithContext(ctx, "GET", r.URL+"/v2/a/b/blobs/"+d.String(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			// The last one is of several ranges, which ServeContent reads in a
			// goroutine that outlives the handler.
			req.Header.Set("Range", []string{fmt.Sprintf("bytes=%d-", i<<18), fmt.Sprintf("bytes=%d-%d,%d-", i<<10, i<<10+99, 5<<20)}[i%2])
			resp, err := r.Client().Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if _, err := io.ReadFull(resp.Body, make([]byte, 50)); err != nil || resp.StatusCode != 206 {
				t.Errorf("%d, %v", resp.StatusCode, err)
			}
		})
	}
	wg.Wait()
	close(rest)
	if a := r.get("/v2/a/b/blobs/" + d.String()); a.err != nil || oci.FromBytes(a.body) != d {
		t.Errorf("%d, %v", a.status, a.err)
	}
	if n := g.Count("GET", oci.KindBlob); whole.Load() > 1 || n > 1+8 {
		t.Errorf("upstream saw %d GETs, %d of the whole; there are 8 pieces", n, whole.Load())
	}
	r.stop()
	for _, q := range r.handler.Stats().Requests {
		if q.Outcome == "error" && q.N > 0 {
			t.Errorf("counted as an error: %+v", q)
		}
	}
}

// TestHeaderAtOnce: the header does not wait for bytes, neither of a body that
// stands still nor of a range far ahead (P 2.13).
func TestHeaderAtOnce(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	data := noise(8<<20, 56)
	d := g.Put("a/b", data)
	rest := make(chan struct{})
	g.Before = func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.(http.Flusher).Flush()
		<-rest
		_, _ = w.Write(data)
		return true
	}
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	var open []*http.Response
	for _, header := range []string{"", "bytes=5000000-", "bytes=0-99,5000000-"} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.URL+"/v2/a/b/blobs/"+d.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			req.Header.Set("Range", header)
		}
		resp, err := r.Client().Do(req) // returns with the header
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		open = append(open, resp)
	}
	close(rest)
	for _, resp := range open {
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != resp.ContentLength {
			t.Errorf("%d of %d bytes, %v", n, resp.ContentLength, err)
		}
	}
}
