package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cistern/cache"
	"cistern/internal/listener"
	"cistern/internal/oci"
	"cistern/proxy"
	"cistern/proxy/savings"
	"cistern/upstream"
)

// registry answers what the test says.
type registry struct {
	remove  func(image string) (cache.Removed, error)
	refresh func(image string) (proxy.Refreshed, error)
}

func (registry) Stats() proxy.Stats {
	return proxy.Stats{
		Requests: []proxy.RequestCount{
			{Kind: "blob", Upstream: "docker.io", Outcome: "hit", Code: 200, N: 3},
			{Kind: "manifest", Upstream: "docker.io", Outcome: "hit", Code: 200, N: 1},
			{Kind: "ping", Outcome: "hit", Code: 200, N: 50},
		},
		LastPull: time.Unix(1_700_000_000, 0), Clients: 2,
	}
}

func (registry) Clients() []proxy.Client {
	return []proxy.Client{{Address: "10.0.0.1", Last: time.Unix(1, 0)}, {Address: "10.0.0.2", Last: time.Unix(2, 0)}}
}

func (r registry) Refresh(_ context.Context, image string) (proxy.Refreshed, error) {
	return r.refresh(image)
}

func (r registry) Remove(_ context.Context, image string) (cache.Removed, error) {
	return r.remove(image)
}

func (registry) Pin(_ context.Context, image string) (cache.Pin, error) {
	return cache.Pin{Image: image}, nil
}

func (registry) Unpin(_ context.Context, image string) (proxy.Unpinned, error) {
	return proxy.Unpinned{Image: image}, nil
}

func (registry) Image(_ context.Context, image string) (cache.ImageDetail, error) {
	return cache.ImageDetail{Image: image, Bytes: 7}, nil
}

// disk is a cache that is ready or says why not.
type disk struct{ err error }

func (disk) Stats() cache.Stats { return cache.Stats{Bytes: 5, Limit: 10, Blobs: 1} }
func (disk) Fills() []cache.FillInfo {
	return []cache.FillInfo{{Digest: "sha256:ab", Upstream: "docker.io", Repository: "library/app", Size: -1, Extents: 2, Rate: 7, Origin: "cdn.test", Whole: true}}
}
func (d disk) Images() iter.Seq2[cache.ImageInfo, error] {
	return func(yield func(cache.ImageInfo, error) bool) {
		_ = yield(cache.ImageInfo{Image: "docker.io/library/app:1"}, nil) && yield(cache.ImageInfo{Image: "docker.io/library/app:2"}, d.err)
	}
}
func (disk) Seen(d oci.Digest) cache.Part { return cache.Part{Digest: d.String(), Here: true} }
func (disk) EvictNext(want int64) ([]cache.Next, error) {
	return []cache.Next{{Digest: "sha256:ab", Allocated: want}}, nil
}
func (disk) Pins() ([]cache.Pin, error) {
	return []cache.Pin{{Image: "docker.io/library/app:1", Bytes: 7}}, nil
}
func (d disk) Ready() error { return d.err }

// book is what was saved.
func book() savings.Report {
	b := savings.New()
	b.Add("docker.io", "library/app", true, savings.Tally{Sent: 10, Received: 5, Asked: 2, Spent: 1})
	return b.Report()
}

// admin is a handler with everything that the tests do not care about.
func admin(t *testing.T, change func(*Options)) *Handler {
	t.Helper()
	l, err := listener.Listen(listener.Options{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	up, err := upstream.New(upstream.Options{Name: "docker.io", Endpoints: []string{"http://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	o := Options{
		Registry: registry{}, Images: registry{}, Cache: disk{}, Kept: disk{}, Upstreams: []*upstream.Upstream{up}, Default: "docker.io",
		Savings: book, Metrics: http.NotFoundHandler(), Listener: l, Version: Version{Version: "v1"},
		Address: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(&o)
	}
	return New(o)
}

func ask(h http.Handler, method, path string, header ...string) *http.Response {
	r := httptest.NewRequest(method, "http://localhost"+path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestRoutesAndMethods(t *testing.T) {
	t.Parallel()
	h := admin(t, func(o *Options) {
		o.Images = registry{remove: func(string) (cache.Removed, error) { return cache.Removed{}, nil }}
	})
	for _, tc := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/", 200}, {"GET", "/healthz", 200}, {"HEAD", "/readyz", 200}, {"GET", "/debug/pprof/", 200},
		{"GET", "/api/v1/status", 200}, {"GET", "/api/v1/version", 200}, {"GET", "/api/v1/upstreams", 200}, {"GET", "/api/v1/clients", 200}, {"GET", "/api/v1/fills", 200}, {"GET", "/api/v1/savings", 200},
		{"POST", "/api/v1/rm?image=x", 200}, {"DELETE", "/api/v1/rm?image=x", 200},
		{"GET", "/api/v1/rm?image=x", 405}, {"GET", "/api/v1/refresh?image=x", 405}, {"PUT", "/api/v1/rm?image=x", 405},
		{"POST", "/api/v1/status", 405}, {"DELETE", "/metrics", 405},
		{"POST", "/api/v1/rm", 400}, {"GET", "/nothing", 404}, {"GET", "/api/v1/", 404},
	} {
		if got := ask(h, tc.method, tc.path); got.StatusCode != tc.want {
			t.Errorf("%s %s: %d, want %d", tc.method, tc.path, got.StatusCode, tc.want)
		}
	}
}

func TestBrowsersFromElsewhereAreRefused(t *testing.T) {
	t.Parallel()
	h := admin(t, func(o *Options) {
		o.Images = registry{remove: func(string) (cache.Removed, error) {
			t.Error("removed for a stranger")
			return cache.Removed{}, nil
		}}
	})
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://evil.example"}, {"Origin", "null"},
	} {
		if got := ask(h, "POST", "/api/v1/rm?image=x", header...); got.StatusCode != http.StatusForbidden {
			t.Errorf("%v: %s", header, got.Status)
		}
	}
	for _, path := range []string{"/api/v1/status", "/metrics", "/debug/pprof/"} {
		if got := ask(h, "GET", path, "Host", "evil.example"); got.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%s for another host: %s", path, got.Status)
		}
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	h := admin(t, func(o *Options) { o.Cache = disk{errors.New("no space left")} })
	got := ask(h, "GET", "/readyz")
	body, _ := io.ReadAll(got.Body)
	if got.StatusCode != 503 || !strings.Contains(string(body), "no space left") {
		t.Errorf("degraded: %s %s", got.Status, body)
	}
	if got := ask(h, "GET", "/healthz"); got.StatusCode != 200 {
		t.Errorf("healthz: %s", got.Status)
	}
	h = admin(t, nil)
	h.Stopping()
	if got := ask(h, "GET", "/readyz"); got.StatusCode != 503 {
		t.Errorf("stopping: %s", got.Status)
	}
}

func TestErrorsOfChanges(t *testing.T) {
	t.Parallel()
	for want, err := range map[int]error{
		404: &oci.Error{Code: oci.CodeNameUnknown, Message: "not here"},
		400: &oci.Error{Code: oci.CodeNameInvalid, Message: "bad name"},
		403: oci.ErrDenied, 429: oci.ErrLimited, 503: oci.ErrUnavailable, 500: errors.New("odd"),
	} {
		h := admin(t, func(o *Options) {
			o.Images = registry{refresh: func(string) (proxy.Refreshed, error) { return proxy.Refreshed{}, err }}
		})
		got := ask(h, "POST", "/api/v1/refresh?image=x")
		var f failure
		if jerr := json.NewDecoder(got.Body).Decode(&f); jerr != nil || got.StatusCode != want || f.Error != err.Error() {
			t.Errorf("%v: %s %q %v", err, got.Status, f.Error, jerr)
		}
	}
}

func TestClientAndHandlerAgree(t *testing.T) {
	t.Parallel()
	images := make(chan string, 2)
	h := admin(t, func(o *Options) {
		o.Images = registry{
			remove: func(image string) (cache.Removed, error) {
				images <- image
				return cache.Removed{Tags: 1, Blobs: 2, Bytes: 3}, nil
			},
			refresh: func(image string) (proxy.Refreshed, error) {
				images <- image
				return proxy.Refreshed{Image: image, Now: "sha256:x", Changed: true}, nil
			},
		}
	})
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: h}}
	srv.Start()
	defer srv.Close()
	overTCP := httptest.NewServer(h)
	defer overTCP.Close()
	for _, address := range []string{"unix:" + socket, overTCP.URL, strings.TrimPrefix(overTCP.URL, "http://")} {
		c, err := NewClient(address, "")
		if err != nil {
			t.Fatal(err)
		}
		agree(t, c, images)
	}
}

func agree(t *testing.T, c *Client, images <-chan string) {
	t.Helper()
	ctx := t.Context()
	s, err := c.Status(ctx)
	if err != nil || !s.Ready || s.Pulls.Requests["hit"] != 4 || s.Cache.Limit != 10 || s.LastPull == nil || len(s.Upstreams) != 1 {
		t.Errorf("status: %+v, %v", s, err)
	}
	if l, err := c.Clients(ctx); err != nil || len(l.Clients) != 2 || l.Clients[0].Address != "10.0.0.2" {
		t.Errorf("clients: %+v, %v", l, err)
	}
	if l, err := c.Fills(ctx); err != nil || !slices.Equal(l.Fills, disk{}.Fills()) {
		t.Errorf("fills: %+v, %v", l, err)
	}
	if u, err := c.Upstreams(ctx); err != nil || len(u.Upstreams) != 1 || !u.Upstreams[0].Default || u.Upstreams[0].RateLimit != nil {
		t.Errorf("upstreams: %+v, %v", u, err)
	}
	want := savings.Tally{Sent: 10, Received: 5, Asked: 2, Spent: 1}
	if r, err := c.Savings(ctx); err != nil || r.Week.Tally != want || len(r.Total.Upstreams) != 1 || r.Total.Upstreams[0].Repositories[0].Name != "library/app" || s.Savings.Today != want {
		t.Errorf("savings: %+v, %v; in the status %+v", r, err, s.Savings)
	}
	if v, err := c.Version(ctx); err != nil || v.Version != "v1" {
		t.Errorf("version: %+v, %v", v, err)
	}
	if r, err := c.Remove(ctx, "a b&c:1"); err != nil || r.Bytes != 3 || <-images != "a b&c:1" {
		t.Errorf("rm: %+v, %v", r, err)
	}
	if r, err := c.Refresh(ctx, "nginx:1"); err != nil || !r.Changed || <-images != "nginx:1" {
		t.Errorf("refresh: %+v, %v", r, err)
	}
	if err := c.Healthy(ctx); err != nil {
		t.Errorf("healthy: %v", err)
	}
}
