package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"cistern/cache"
	"cistern/internal/listener"
	"cistern/internal/oci"
	"cistern/proxy"
	"cistern/proxy/savings"
	"cistern/upstream"
)

// Registry is the face to registry clients, *proxy.Handler.
type Registry interface {
	Stats() proxy.Stats
	Clients() []proxy.Client
}

// Images is what may be done about what is cached, by the names that people give it,
// *proxy.Handler.
type Images interface {
	Refresh(ctx context.Context, image string) (proxy.Refreshed, error)
	Remove(ctx context.Context, image string) (cache.Removed, error)
	Image(ctx context.Context, image string) (cache.ImageDetail, error)
	Pin(ctx context.Context, image string) (cache.Pin, error)
	Unpin(ctx context.Context, image string) (proxy.Unpinned, error)
}

// Kept is what is kept, *cache.Cache.
type Kept interface {
	// Images lists the tags that are known.
	Images() iter.Seq2[cache.ImageInfo, error]
	// Seen describes a digest, whatever image it belongs to.
	Seen(d oci.Digest) cache.Part
	// EvictNext tells what would go for so many bytes.
	EvictNext(want int64) ([]cache.Next, error)
	// Pins lists what is pinned, by name.
	Pins() ([]cache.Pin, error)
}

// Verifier hashes what is kept, *proxy.Handler.
type Verifier interface {
	// Verify hashes all blobs, and fetches at once what is damaged if it is to repair.
	Verify(ctx context.Context, repair bool, v cache.Verification) (cache.VerifyProgress, error)
}

// Cache is how keeping it fares, *cache.Cache.
type Cache interface {
	Stats() cache.Stats
	// Fills are in the order in which they began.
	Fills() []cache.FillInfo
	// Ready proves that the cache can read and write, or says why not.
	Ready() error
}

var (
	_ Registry = (*proxy.Handler)(nil)
	_ Images   = (*proxy.Handler)(nil)
	_ Cache    = (*cache.Cache)(nil)
	_ Kept     = (*cache.Cache)(nil)
	_ Verifier = (*proxy.Handler)(nil)
)

// Options are what the handler shows, and to whom. All fields are needed but
// those that say otherwise.
type Options struct {
	Registry  Registry
	Images    Images
	Cache     Cache
	Kept      Kept
	Verifier  Verifier
	Carrier   Carrier
	Upstreams []*upstream.Upstream
	Default   string // the default upstream; may be ""
	Savings   func() savings.Report
	Metrics   http.Handler
	Listener  *listener.Listener // the registry's
	CacheDir  string
	Version   Version

	Address   net.Addr    // what the admin listener is bound to: it decides who needs a token
	Hosts     []string    // names that a Host header may carry; may be empty
	TokenFile string      // may be ""
	Log       *zap.Logger // nil: nothing is logged
}

// Handler answers the admin listener. It is safe for concurrent use.
type Handler struct {
	o        Options
	log      *zap.Logger
	started  time.Time
	stopping atomic.Bool
	listing  sync.Mutex // held by the one list of images that is being made
	http     http.Handler
}

// New makes the handler; the start of the daemon is now.
func New(o Options) *Handler {
	h := &Handler{o: o, log: o.Log, started: time.Now()}
	if h.log == nil {
		h.log = zap.NewNop()
	}
	h.http = h.guarded(h.routes())
	return h
}

// Stopping makes /readyz say no, so that load balancers look elsewhere.
func (h *Handler) Stopping() { h.stopping.Store(true) }

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.http.ServeHTTP(w, r) }

// routes is the whole of the listener. GET patterns answer HEAD as well.
func (h *Handler) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", index)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", h.ready)
	mux.Handle("GET /metrics", h.o.Metrics)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)

	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, h.status()) })
	mux.HandleFunc("GET /api/v1/version", func(w http.ResponseWriter, _ *http.Request) { answer(w, h.o.Version) })
	mux.HandleFunc("GET /api/v1/upstreams", func(w http.ResponseWriter, _ *http.Request) { answer(w, Upstreams{h.upstreams()}) })
	mux.HandleFunc("GET /api/v1/clients", func(w http.ResponseWriter, _ *http.Request) { answer(w, Clients{h.clients()}) })
	mux.HandleFunc("GET /api/v1/fills", func(w http.ResponseWriter, _ *http.Request) { answer(w, Fills{h.o.Cache.Fills()}) })
	mux.HandleFunc("GET /api/v1/savings", func(w http.ResponseWriter, _ *http.Request) { answer(w, h.o.Savings()) })
	mux.HandleFunc("GET /api/v1/images", h.images)
	mux.HandleFunc("GET /api/v1/image", h.image)
	mux.HandleFunc("GET /api/v1/blob", h.blob)
	mux.HandleFunc("GET /api/v1/evict", h.evictNext)
	mux.HandleFunc("POST /api/v1/refresh", h.refresh)
	mux.HandleFunc("POST /api/v1/verify", h.verify)
	mux.HandleFunc("POST /api/v1/rm", h.remove)
	mux.HandleFunc("DELETE /api/v1/rm", h.remove)
	mux.HandleFunc("GET /api/v1/pins", h.pins)
	mux.HandleFunc("POST /api/v1/pin", func(w http.ResponseWriter, r *http.Request) { change(h, w, r, "pin", h.o.Images.Pin) })
	mux.HandleFunc("POST /api/v1/unpin", func(w http.ResponseWriter, r *http.Request) { change(h, w, r, "unpin", h.o.Images.Unpin) })
	h.carryRoutes(mux)
	return mux
}

// guarded lets a request through to next, or says why not.
func (h *Handler) guarded(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	g := gate{local: isLocal(h.o.Address), hosts: h.o.Hosts, tokenFile: h.o.TokenFile}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if no := g.check(r); no != nil {
			h.log.Debug("admin request refused", zap.Int("status", no.status), zap.String("client", r.RemoteAddr), zap.String("reason", no.text))
			if no.status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Bearer realm="cistern admin"`)
			}
			fail(w, r, no.status, no.text)
			return
		}
		if err := cross.Check(r); err != nil {
			fail(w, r, http.StatusForbidden, err.Error())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// index is for a person who wonders what listens here.
func index(w http.ResponseWriter, _ *http.Request) {
	text(w, http.StatusOK, "This is the admin address of cistern: /metrics /healthz /readyz /debug/pprof/ "+
		"/api/v1/status /api/v1/upstreams /api/v1/clients /api/v1/fills /api/v1/savings /api/v1/images /api/v1/image /api/v1/blob /api/v1/evict /api/v1/pins /api/v1/version")
}

func (h *Handler) ready(w http.ResponseWriter, _ *http.Request) {
	if err := h.readiness(); err != nil {
		text(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	text(w, http.StatusOK, "ok")
}

func (h *Handler) readiness() error {
	if h.stopping.Load() {
		return errors.New("stopping")
	}
	return h.o.Cache.Ready()
}

// changeTimeout bounds what one call may cost: a refresh asks upstream.
const changeTimeout = time.Minute

func (h *Handler) refresh(w http.ResponseWriter, r *http.Request) {
	change(h, w, r, "refresh", h.o.Images.Refresh)
}

func (h *Handler) remove(w http.ResponseWriter, r *http.Request) {
	change(h, w, r, "rm", h.o.Images.Remove)
}

// named gives the image that a request names, or tells it to name one.
func named(w http.ResponseWriter, r *http.Request) (image string, ok bool) {
	image = r.URL.Query().Get("image")
	if image == "" {
		fail(w, r, http.StatusBadRequest, "name the image: "+r.URL.Path+"?image=NAME")
	}
	return image, image != ""
}

// change runs do on the image that the request names, and logs who did it.
func change[T any](h *Handler, w http.ResponseWriter, r *http.Request, verb string, do func(context.Context, string) (T, error)) {
	image, ok := named(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), changeTimeout)
	defer cancel()
	done, err := do(ctx, image)
	if err != nil {
		h.log.Warn("admin "+verb+" failed", zap.String("image", cut(image)), zap.String("client", r.RemoteAddr), zap.Error(err))
		fail(w, r, statusOf(err), err.Error())
		return
	}
	h.log.Info("admin "+verb, zap.String("image", cut(image)), zap.String("client", r.RemoteAddr))
	answer(w, done)
}

// statusOf is the HTTP status that goes with an error of proxy.
func statusOf(err error) int {
	var e *oci.Error
	switch {
	case errors.As(err, &e):
		return e.Status()
	case errors.Is(err, oci.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, oci.ErrDenied):
		return http.StatusForbidden
	case errors.Is(err, oci.ErrLimited):
		return http.StatusTooManyRequests
	case errors.Is(err, oci.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n'))
}

// fail answers an error in the form that the path's readers expect.
func fail(w http.ResponseWriter, r *http.Request, status int, why string) {
	if !strings.HasPrefix(r.URL.Path, "/api/") {
		text(w, status, why)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(failure{why})
}

func text(w http.ResponseWriter, status int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, s)
}
