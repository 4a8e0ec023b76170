package proxy

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cistern/cache"
	"cistern/internal/oci"
	"cistern/internal/registrytest"
	"cistern/upstream"
)

var anyTag = regexp.MustCompile(".*")

// rig is a cache in front of registries, all in this process, over real
// sockets and files.
type rig struct {
	*httptest.Server
	t       *testing.T
	handler *Handler
	cache   *cache.Cache
	dir     string
	stop    func() // ends all of it; called at the end of the test at the latest
}

type setup struct {
	dir       string
	limit     int64
	fresh     time.Duration
	upstreams map[string]*registrytest.Registry
	options   func(*upstream.Options)
}

func newRig(t *testing.T, s setup) *rig {
	t.Helper()
	if s.dir == "" {
		s.dir = t.TempDir()
	}
	c, err := cache.Open(cache.Options{Dir: s.dir, Limit: s.limit})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Cache: c, Default: "docker.io", Aliases: map[string]string{"index.docker.io": "docker.io"}}
	var clients []*upstream.Upstream
	for name, g := range s.upstreams {
		uo := upstream.Options{Name: name, Endpoints: []string{g.URL}, Network: "private"}
		if s.options != nil {
			s.options(&uo)
		}
		u, err := upstream.New(uo)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, u)
		policy := cache.Policy{StaleIfError: time.Hour, MaxStreams: 4}
		if s.fresh > 0 {
			policy.Tags = []cache.TagRule{{Match: anyTag, Fresh: s.fresh}}
		}
		o.Upstreams = append(o.Upstreams, Upstream{u, policy})
	}
	h := New(o)
	r := &rig{Server: httptest.NewServer(h), t: t, handler: h, cache: c, dir: s.dir}
	r.stop = sync.OnceFunc(func() {
		r.Server.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for _, u := range clients {
			u.Close()
		}
	})
	t.Cleanup(r.stop)
	return r
}

// answer is a response whole.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // of the request, or of reading the body
}

func (r *rig) do(method, path string, header ...string) answer {
	r.t.Helper()
	req, err := http.NewRequest(method, r.URL+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := r.Client().Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body, err}
}

func (r *rig) get(path string, header ...string) answer {
	r.t.Helper()
	return r.do("GET", path, header...)
}

// noise is n bytes that no compressor and no repeated block could fake.
func noise(n int, seed uint64) []byte {
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	_, _ = src.Read(b)
	return b
}

func TestColdThenWarm(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	for _, size := range []int{0, 1, 4 << 10, 40 << 10, 300 << 10, 3 << 20} {
		g.Put("library/app", noise(size, 1))
	}
	d := g.PutImage("library/app", "v1", noise(3<<20, 1))
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	for i, want := range []string{"cistern; fwd=miss", "cistern; hit"} {
		a := r.get("/v2/library/app/manifests/v1")
		if a.status != 200 || oci.FromBytes(a.body) != d || a.header.Get("Cache-Status") != want || a.header.Get("Content-Type") != oci.MediaTypeOCIManifest {
			t.Fatalf("manifest: %d %v", a.status, a.header)
		}
		for _, size := range []int{0, 1, 4 << 10, 40 << 10, 300 << 10, 3 << 20} {
			b := oci.FromBytes(noise(size, 1))
			a := r.get("/v2/library/app/blobs/" + b.String())
			if a.status != 200 || a.err != nil || oci.FromBytes(a.body) != b || a.header.Get("Docker-Content-Digest") != b.String() {
				t.Fatalf("blob of %d bytes: %d %v %v, %d bytes", size, a.status, a.err, a.header, len(a.body))
			}
			if got := a.header.Get("Cache-Status"); got != want {
				t.Errorf("blob of %d bytes, round %d: %q", size, i, got)
			}
			head := r.do("HEAD", "/v2/library/app/blobs/"+b.String())
			if head.status != 200 || head.header.Get("Content-Length") != fmt.Sprint(size) {
				t.Errorf("HEAD of %d bytes: %d %v", size, head.status, head.header)
			}
		}
	}
	if m, b := g.Count("GET", oci.KindManifest), g.Count("GET", oci.KindBlob); m != 1 || b != 6 {
		t.Errorf("upstream saw %d manifests and %d blobs", m, b)
	}
	if n := g.Count("HEAD", oci.KindManifest); n != 0 {
		t.Errorf("upstream saw %d HEADs", n)
	}
}

func TestHerdFetchesOnce(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	big, small := noise(6<<20, 2), noise(9000, 2)
	db, ds := g.Put("library/app", big), g.Put("library/app", small)
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			d := []oci.Digest{db, ds}[i%2]
			if a := r.get("/v2/library/app/blobs/" + d.String()); a.status != 200 || oci.FromBytes(a.body) != d {
				t.Errorf("client %d: %d, %d bytes, %v", i, a.status, len(a.body), a.err)
			}
		})
	}
	wg.Wait()
	if n := g.Count("GET", oci.KindBlob); n != 2 {
		t.Errorf("upstream saw %d GETs, want 2", n)
	}
}

func TestRangesInEveryState(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	data := noise(1<<20+17, 3)
	d := g.Put("library/app", data)
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	n := len(data)
	for round := range 2 {
		for spec, want := range map[string][2]int{
			"bytes=0-": {0, n}, "bytes=500-1499": {500, 1500}, "bytes=500-": {500, n}, "bytes=-500": {n - 500, n},
			"bytes=1048000-99999999": {1048000, n}, "bytes=0-0": {0, 1},
		} {
			a := r.get("/v2/library/app/blobs/"+d.String(), "Range", spec)
			if a.status != 206 || !bytes.Equal(a.body, data[want[0]:want[1]]) || a.header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, n) {
				t.Errorf("round %d, %s: %d, %d bytes, %v", round, spec, a.status, len(a.body), a.header)
			}
		}
		for _, spec := range []string{"bytes=500-0", "bytes=99999999-", "bytes=-0", "bytes=9999999999999999999-", "bytes=x-y", "bytes="} {
			a := r.get("/v2/library/app/blobs/"+d.String(), "Range", spec)
			if a.status != 416 || a.header.Get("Content-Range") != fmt.Sprintf("bytes */%d", n) || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("round %d, %s: %d %v", round, spec, a.status, a.header)
			}
		}
		a := r.get("/v2/library/app/blobs/"+d.String(), "Range", "lines=1-2")
		if a.status != 200 || len(a.body) != n {
			t.Errorf("unknown unit: %d", a.status)
		}
		a = r.get("/v2/library/app/blobs/"+d.String(), "Range", "bytes=0-9,100-199,-5")
		if a.status != 206 || !strings.HasPrefix(a.header.Get("Content-Type"), "multipart/byteranges") || !bytes.Contains(a.body, data[100:200]) {
			t.Errorf("multi-range: %d %v", a.status, a.header)
		}
	}
}

// du is what the files and folders below dir take on disk.
func du(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // evicted meanwhile
		}
		if fi, err := e.Info(); err == nil {
			sum += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return sum
}
