package proxy

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"cistern/cache"
	"cistern/internal/registrytest"
	"cistern/upstream"
)

// nowhere is a client that costs nothing.
type nowhere struct{ h http.Header }

func (w *nowhere) Header() http.Header         { return w.h }
func (w *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w *nowhere) WriteHeader(int)             {}

// discard is a log's sink.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Sync() error                 { return nil }

// BenchmarkSmallHit is what a hit costs beyond net/http.
func BenchmarkSmallHit(b *testing.B) {
	g := registrytest.New(b)
	d := g.Put("library/app", noise(4096, 1))
	m := g.PutImage("library/app", "v1", noise(4096, 1))
	c, err := cache.Open(cache.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	u, err := upstream.New(upstream.Options{Name: "docker.io", Endpoints: []string{g.URL}})
	if err != nil {
		b.Fatal(err)
	}
	defer u.Close()
	logged := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), discard{}, zap.InfoLevel))
	for name, path := range map[string]string{
		"blob": "/v2/library/app/blobs/" + d.String(), "tag": "/v2/library/app/manifests/v1", "digest": "/v2/library/app/manifests/" + m.String(),
	} {
		for logName, log := range map[string]*zap.Logger{"": nil, "/logged": logged} {
			b.Run(name+logName, func(b *testing.B) {
				h := New(Options{Cache: c, Upstreams: []Upstream{{Client: u}}, Default: "docker.io", Log: log})
				r := httptest.NewRequest("GET", path, nil)
				r.URL.Host, r.Host = "", "cistern:5000"
				r.Header.Set("User-Agent", "containerd/2.4.2")
				h.ServeHTTP(httptest.NewRecorder(), r)
				b.ReportAllocs()
				w := &nowhere{http.Header{}}
				for b.Loop() {
					clear(w.h)
					h.ServeHTTP(w, r)
				}
			})
		}
	}
}
