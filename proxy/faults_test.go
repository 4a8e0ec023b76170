package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cistern/internal/oci"
	"cistern/internal/registrytest"
	"cistern/upstream"
)

// isBlob tells whether a request is a GET of a blob.
func isBlob(r *http.Request) bool {
	return r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/")
}

// sendRaw writes a response by hand, so that it can be wrong, and cuts.
func sendRaw(t *testing.T, w http.ResponseWriter, head string, body []byte) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	fmt.Fprintf(buf, "HTTP/1.1 %s\r\n\r\n", head)
	_, _ = buf.Write(body)
	_ = buf.Flush()
}

func TestWrongBytesAreNeverWhole(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 10 << 10, 2 << 20} {
		for _, at := range []int{0, size / 2, size - 1} {
			t.Run(fmt.Sprintf("%d at %d", size, at), func(t *testing.T) {
				t.Parallel()
				g := registrytest.New(t)
				data := noise(size, 4)
				d := g.Put("library/app", data)
				var wrong atomic.Int32
				wrong.Store(2) // the first fetch and its one repetition
				g.Before = func(w http.ResponseWriter, r *http.Request) bool {
					if !isBlob(r) || wrong.Add(-1) < 0 {
						return false
					}
					bad := append([]byte{}, data...)
					bad[at] ^= 1
					w.Header().Set("Content-Length", fmt.Sprint(size))
					_, _ = w.Write(bad)
					return true
				}
				r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
				path := "/v2/library/app/blobs/" + d.String()
				for wrong.Load() > 0 {
					if a := r.get(path); a.status == 200 && a.err == nil && oci.FromBytes(a.body) != d {
						t.Fatalf("wrong bytes arrived whole: %v", a.header)
					}
				}
				wrong.Store(0)
				var a answer
				for range 3 { // the first may still read along with the bad one
					if a = r.get(path); a.err == nil && a.status == 200 {
						break
					}
				}
				if oci.FromBytes(a.body) != d {
					t.Fatalf("afterwards: %d, %v, %d bytes", a.status, a.err, len(a.body))
				}
			})
		}
	}
}

func TestCutBodyIsResumedUnseen(t *testing.T) {
	t.Parallel()
	for _, size := range []int{64 << 10, 4 << 20} {
		g := registrytest.New(t)
		data := noise(size, 5)
		d := g.Put("library/app", data)
		var n atomic.Int32
		g.Before = func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r) || n.Add(1) > 1 {
				return false
			}
			sendRaw(t, w, fmt.Sprintf("200 OK\r\nContent-Length: %d", size), data[:size/3])
			return true
		}
		r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
		a := r.get("/v2/library/app/blobs/" + d.String())
		if a.status != 200 || a.err != nil || oci.FromBytes(a.body) != d {
			t.Fatalf("%d bytes: %d, %v, got %d", size, a.status, a.err, len(a.body))
		}
		asked := g.Asked(oci.KindBlob)
		if want := fmt.Sprintf("bytes=%d-%d", size/3, size-1); len(asked) != 2 || asked[1].Range != want {
			t.Errorf("%d bytes: upstream saw %+v, want a second request with %s", size, asked, want)
		}
	}
}

func TestPassingFaultsAreUnseen(t *testing.T) {
	t.Parallel()
	for _, status := range []int{500, 502, 503, 504} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			g := registrytest.New(t)
			d := g.PutImage("library/app", "v1", noise(1<<20, 6))
			seen := map[string]bool{}
			var mu sync.Mutex
			g.Before = func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if seen[r.URL.Path] {
					return false
				}
				seen[r.URL.Path] = true
				w.WriteHeader(status)
				return true
			}
			r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
			if a := r.get("/v2/library/app/manifests/v1"); a.status != 200 || oci.FromBytes(a.body) != d {
				t.Errorf("manifest: %d %s", a.status, a.body)
			}
			b := oci.FromBytes(noise(1<<20, 6))
			if a := r.get("/v2/library/app/blobs/" + b.String()); a.status != 200 || oci.FromBytes(a.body) != b {
				t.Errorf("blob: %d %v", a.status, a.err)
			}
		})
	}
}

// TestClientsDoNotDisturb has one client leave and one stand still in the
// middle of a fill; the third gets everything, by the one fetch.
func TestClientsDoNotDisturb(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	data := noise(12<<20, 7)
	d := g.Put("library/app", data)
	half := make(chan struct{})
	g.Before = func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		w.(http.Flusher).Flush()
		<-half
		_, _ = w.Write(data[len(data)/2:])
		return true
	}
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	url := r.URL + "/v2/library/app/blobs/" + d.String()
	open := func(ctx context.Context) *http.Response {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := r.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
			t.Fatal(err)
		}
		return resp
	}
	ctx, leave := context.WithCancel(t.Context())
	first := open(ctx)
	stands := open(t.Context())
	defer stands.Body.Close()
	leave()
	first.Body.Close()
	close(half)
	if a := r.get("/v2/library/app/blobs/" + d.String()); a.err != nil || oci.FromBytes(a.body) != d {
		t.Errorf("%d, %v, %d bytes", a.status, a.err, len(a.body))
	}
	if n := g.Count("GET", oci.KindBlob); n != 1 {
		t.Errorf("upstream saw %d GETs", n)
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	d1 := g.PutImage("library/app", "v1", noise(10, 8))
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}, fresh: time.Nanosecond})
	get := func(want oci.Digest, status string) {
		t.Helper()
		a := r.get("/v2/library/app/manifests/v1")
		if oci.FromBytes(a.body) != want || !strings.HasPrefix(a.header.Get("Cache-Status"), status) {
			t.Errorf("%d %s: %v", a.status, a.body, a.header)
		}
	}
	get(d1, "cistern; fwd=miss")
	get(d1, "cistern; hit")
	if heads, gets := g.Count("HEAD", oci.KindManifest), g.Count("GET", oci.KindManifest); heads != 1 || gets != 1 {
		t.Errorf("unchanged: %d HEADs and %d GETs", heads, gets)
	}
	d2 := g.PutImage("library/app", "v1", noise(11, 8))
	get(d2, "cistern; fwd=miss")
	if gets := g.Asked(oci.KindManifest); !strings.HasSuffix(gets[len(gets)-1].Path, d2.String()) {
		t.Errorf("a moved tag is fetched by %+v", gets[len(gets)-1])
	}
	g.Before = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	get(d2, "cistern; fwd=stale")
	if a := r.get("/v2/library/app/manifests/never"); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("mirror mode under a rate limit: %d %v", a.status, a.header)
	}
}

// TestStaleNeedsItsBlobs: while upstream is away a tag is served only if it can
// be pulled (P 2.52), an index if one of its children can.
func TestStaleNeedsItsBlobs(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	layer := noise(50<<10, 9)
	image := g.PutImage("library/app", "v1", layer)
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"digest":%q},{"digest":%q}]}`,
		oci.MediaTypeOCIIndex, image, oci.FromBytes([]byte("arm64")))
	g.PutManifest("library/app", "multi", oci.MediaTypeOCIIndex, []byte(index))
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}, fresh: time.Nanosecond})
	m := r.get("/v2/library/app/manifests/v1")
	r.get("/v2/library/app/manifests/multi")
	down := func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }
	g.Before = down
	for _, tag := range []string{"v1", "multi"} {
		if a := r.get("/v2/library/app/manifests/" + tag); a.status != 503 {
			t.Errorf("%s without its layer: %d", tag, a.status)
		}
	}
	g.Before = nil
	for _, part := range strings.Split(string(m.body), `"digest":"`)[1:] {
		d, _, _ := strings.Cut(part, `"`)
		for {
			a := r.get("/v2/library/app/blobs/" + d)
			if a.status == 200 {
				break
			}
		}
	}
	g.Before = down
	for _, tag := range []string{"v1", "multi"} {
		a := r.get("/v2/library/app/manifests/" + tag)
		if a.status != 200 || !strings.HasPrefix(a.header.Get("Cache-Status"), "cistern; fwd=stale; detail=") {
			t.Errorf("%s with its layer: %d %v", tag, a.status, a.header)
		}
	}
	if a := r.get("/v2/library/app/blobs/" + oci.FromBytes(layer).String()); a.status != 200 {
		t.Errorf("a cached blob: %d", a.status)
	}
}

func TestPrivateStaysPrivate(t *testing.T) {
	t.Parallel()
	secret, open := registrytest.New(t), registrytest.New(t)
	secret.Password = "hunter2"
	layer := noise(100<<10, 10)
	d := secret.Put("team/app", layer)
	secret.Put("other/app", layer)
	secret.Put("none/app", []byte("x"))
	open.Put("library/app", []byte("y"))
	r := newRig(t, setup{
		upstreams: map[string]*registrytest.Registry{"corp.example": secret, "docker.io": open},
		options: func(o *upstream.Options) {
			if o.Name == "corp.example" {
				o.Credentials = func(context.Context) (upstream.Credentials, error) {
					return upstream.Credentials{Username: "user", Password: "hunter2"}, nil
				}
			}
		},
	})
	path := func(repo string) string { return "/v2/" + repo + "/blobs/" + d.String() }
	if a := r.get(path("corp.example/team/app")); a.status != 200 || oci.FromBytes(a.body) != d {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for _, method := range []string{"GET", "HEAD"} {
		for _, repo := range []string{"library/app", "corp.example/none/app"} {
			if a := r.do(method, path(repo)); a.status != 404 {
				t.Errorf("%s under %s: %d", method, repo, a.status)
			}
			if a := r.do(method, path(repo), "Range", "bytes=0-9"); a.status != 404 {
				t.Errorf("%s of a range under %s: %d", method, repo, a.status)
			}
		}
	}
	secret.Reset()
	if a := r.get(path("corp.example/other/app")); a.status != 200 || a.header.Get("Cache-Status") == "cistern; fwd=miss" { // a hit, or collapsed while it is stored
		t.Errorf("with a proof: %d %v", a.status, a.header)
	}
	if gets := secret.Count("GET", oci.KindBlob); gets != 0 {
		t.Errorf("the proof took %d GETs", gets)
	}
	secret.Reset()
	r.get(path("corp.example/other/app"))
	r.get(path("corp.example/team/app"))
	if n := len(secret.Asked(oci.KindBlob)); n != 0 {
		t.Errorf("granted content took %d requests upstream", n)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	data := noise(3<<20, 11)
	d := g.Put("library/app", data)
	m := g.PutImage("library/app", "v1", data)
	dir := t.TempDir()
	first := newRig(t, setup{dir: dir, upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	first.get("/v2/library/app/manifests/v1")
	first.get("/v2/library/app/blobs/" + d.String())
	first.stop()
	g.Reset()
	second := newRig(t, setup{dir: dir, upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	for path, want := range map[string]oci.Digest{"/v2/library/app/manifests/v1": m, "/v2/library/app/blobs/" + d.String(): d} {
		a := second.get(path)
		if oci.FromBytes(a.body) != want || a.header.Get("Cache-Status") != "cistern; hit" {
			t.Errorf("%s: %d %v", path, a.status, a.header)
		}
	}
	if n := len(g.Asked(oci.KindBlob)) + len(g.Asked(oci.KindManifest)); n != 0 {
		t.Errorf("upstream saw %d requests", n)
	}
}

// TestDamagedFile: a cached file that was truncated behind our back is fetched
// again, not served.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	d := g.Put("library/app", noise(3<<20, 12))
	dir := t.TempDir()
	r := newRig(t, setup{dir: dir, upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	r.get("/v2/library/app/blobs/" + d.String())
	for _, tree := range []string{"blobs", "fills"} {
		_ = os.Truncate(filepath.Join(dir, tree, "sha256", d.Hex()[:2], d.Hex()), 1000)
	}
	if a := r.get("/v2/library/app/blobs/" + d.String()); oci.FromBytes(a.body) != d || a.header.Get("Cache-Status") != "cistern; fwd=miss" {
		t.Errorf("%d %v, %d bytes", a.status, a.header, len(a.body))
	}
}

func TestNoDisk(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	small, big := noise(100, 13), noise(5<<20, 13)
	ds, db := g.Put("library/app", small), g.Put("library/app", big)
	r := newRig(t, setup{dir: dir, upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	for _, d := range []oci.Digest{ds, db, db} {
		if a := r.get("/v2/library/app/blobs/" + d.String()); oci.FromBytes(a.body) != d {
			t.Errorf("%d %v, %d bytes", a.status, a.header, len(a.body))
		}
	}
	if a := r.get("/v2/library/app/blobs/"+db.String(), "Range", "bytes=1000-1999"); a.status != 206 || string(a.body) != string(big[1000:2000]) {
		t.Errorf("range: %d, %d bytes", a.status, len(a.body))
	}
	if r.cache.Ready() == nil {
		t.Error("ready without a disk")
	}
}

// TestCap pushes ten times the cap through the cache.
func TestCap(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	const limit = 64 << 20
	r := newRig(t, setup{limit: limit, upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			for i := range 30 {
				d := g.Put("library/app", noise(3<<20+i, uint64(c*100+i)))
				if a := r.get("/v2/library/app/blobs/" + d.String()); oci.FromBytes(a.body) != d {
					t.Errorf("%d %v", a.status, a.err)
				}
				if used := r.cache.Stats().Bytes; used > limit {
					t.Errorf("%d bytes used, over the cap", used)
				}
			}
		})
	}
	wg.Wait()
	if s := r.cache.Stats(); s.EvictedBlobs == 0 || s.Unbacked > 10 {
		t.Errorf("%+v", s)
	}
	if n := du(t, r.dir); n > limit {
		t.Errorf("%d bytes on disk, over the cap", n)
	}
}
