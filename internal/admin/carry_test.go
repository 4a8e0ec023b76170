package admin

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cistern/cache"
	"cistern/internal/oci"
	"cistern/internal/registrytest"
	"cistern/proxy"
	"cistern/upstream"
)

// site is a daemon's inside, as far as images are carried, and a client of it.
type site struct {
	*Client
	proxy *proxy.Handler
	url   string
}

// newSite makes one whose upstream test.example is at an address.
func newSite(t *testing.T, endpoint string) *site {
	t.Helper()
	c, err := cache.Open(cache.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	u, err := upstream.New(upstream.Options{Name: "test.example", Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	p := proxy.New(proxy.Options{Cache: c, Upstreams: []proxy.Upstream{{Client: u}}, Default: "test.example"})
	s := httptest.NewServer(admin(t, func(o *Options) { o.Carrier = p }))
	t.Cleanup(func() {
		s.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		u.Close()
	})
	client, err := NewClient(s.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	return &site{client, p, s.URL}
}

// get asks the site's registry.
func (s *site) get(path string) int {
	w := httptest.NewRecorder()
	s.proxy.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code
}

// TestCarry: a bundle and its blobs go from one daemon to another by the client.
func TestCarry(t *testing.T) {
	t.Parallel()
	g, ctx := registrytest.New(t), t.Context()
	layer := bytes.Repeat([]byte("layer "), 100_000)
	g.PutImage("team/app", "v1", layer)
	from, to := newSite(t, g.URL), newSite(t, "http://127.0.0.1:1")
	if _, err := from.Bundle(ctx, "team/app:v1"); err == nil || !strings.Contains(err.Error(), "pull it through this cache first") {
		t.Error(err)
	}
	from.get("/v2/team/app/manifests/v1")
	if b, err := from.Bundle(ctx, "team/app:v1"); err == nil || !strings.Contains(err.Error(), "is not here (never seen)") {
		t.Errorf("%+v, %v", b, err)
	}
	for _, a := range []oci.Digest{oci.FromBytes(layer), oci.FromBytes([]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"},"created_by":"team/appv1"}`))} {
		if code := from.get("/v2/team/app/blobs/" + a.String()); code != http.StatusOK {
			t.Fatal(code)
		}
	}
	b, err := from.Bundle(ctx, "team/app:v1")
	if err != nil || b.Image != "test.example/team/app:v1" || len(b.Pieces) != 3 {
		t.Fatalf("%+v, %v", b, err)
	}
	for i := range 2 {
		got, err := to.Import(ctx, b)
		if want := 3 * (1 - i); err != nil || len(got.Missing) != want {
			t.Fatalf("%+v, %v; want %d missing", got, err, want)
		}
		for _, p := range b.Pieces[:3*(1-i)] {
			body, err := from.OpenBlob(ctx, p.Digest)
			if err != nil {
				t.Fatal(err)
			}
			err = to.ImportBlob(ctx, b.Image, p, body)
			body.Close()
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if code := to.get("/v2/team/app/manifests/v1"); code != http.StatusOK {
		t.Error(code)
	}
	if code := to.get("/v2/team/app/blobs/" + oci.FromBytes(layer).String()); code != http.StatusOK {
		t.Error(code)
	}
}

// TestCarryRefused: what is wrong is told, before the body is sent where that can be.
func TestCarryRefused(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t, "http://127.0.0.1:1"), t.Context()
	data := bytes.Repeat([]byte("x"), 4<<20)
	p := cache.Carried{Digest: oci.FromBytes(data), Size: int64(len(data))}
	other := cache.Carried{Digest: oci.FromBytes(nil), Size: p.Size}
	for says, do := range map[string]func() error{
		"add it under upstreams":    func() error { return s.ImportBlob(ctx, "ghcr.io/x/y:1", p, unread{t}) },
		"with the registry":         func() error { return s.ImportBlob(ctx, "nginx:1.27", p, unread{t}) },
		"no manifest of an image":   func() error { p := p; p.Manifest = true; return s.ImportBlob(ctx, "test.example/a:1", p, unread{t}) },
		"not what the digest names": func() error { return s.ImportBlob(ctx, "test.example/a:1", other, bytes.NewReader(data)) },
		"is not here (never seen)":  func() error { _, err := s.OpenBlob(ctx, p.Digest); return err },
		"not configured here":       func() error { _, err := s.Import(ctx, cache.Bundle{Image: "ghcr.io/x/y:1"}); return err },
		"not all that":              func() error { _, err := s.Import(ctx, cache.Bundle{Image: "test.example/a:1", Target: p}); return err },
		"name the image":            func() error { _, err := s.Bundle(ctx, ""); return err },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
	for path, want := range map[string]int{"/api/v1/blob/sha256:ab": http.StatusBadRequest, "/api/v1/blob/..": http.StatusBadRequest, "/api/v1/bundle": http.StatusBadRequest} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, s.url+path, io.NopCloser(strings.NewReader("{")))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want && resp.StatusCode != http.StatusTemporaryRedirect && resp.StatusCode != http.StatusMovedPermanently {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

// unread is a body that nobody may want.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was sent")
	return 0, io.EOF
}
