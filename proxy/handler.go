package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"cistern/cache"
	"cistern/internal/oci"
	"cistern/proxy/savings"
)

// Options says what a Handler serves from. Cache and Upstreams are needed.
type Options struct {
	Cache         *cache.Cache
	Upstreams     []Upstream
	Default       string            // the upstream of requests that name none; "": such requests get 404
	Aliases       map[string]string // other names of configured upstreams
	Log           *zap.Logger       // access log, one line a request; nil: none
	Savings       *savings.Book     // what requests save; nil: nobody wants to know
	MirrorAddress string            // how clients reach this listener, for the page at /: "http://host:5000"
}

// Handler answers the registry listener. It is safe for concurrent use.
type Handler struct {
	cache   *cache.Cache
	routes  *routes
	log     *zap.Logger
	address string
	counts  *counts
	clients *clients
	serve   [6]func(*Handler, *exchange) error // by oci.Kind
}

// New makes the handler.
func New(o Options) *Handler {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Savings == nil {
		o.Savings = savings.New()
	}
	h := &Handler{
		cache: o.Cache, routes: newRoutes(o.Upstreams, o.Default, o.Aliases, o.Savings), log: o.Log, address: o.MirrorAddress,
		counts: newCounts(o.Upstreams), clients: newClients(),
	}
	h.serve = [6]func(*Handler, *exchange) error{
		oci.KindOther:     (*Handler).other,
		oci.KindPing:      (*Handler).ping,
		oci.KindManifest:  (*Handler).manifest,
		oci.KindBlob:      (*Handler).blob,
		oci.KindTags:      (*Handler).tags,
		oci.KindReferrers: (*Handler).referrers,
	}
	return h
}

// exchange is one request on its way through the handler.
type exchange struct {
	w       recorder
	r       *http.Request
	req     oci.Request
	target  target // up is nil until the request was resolved
	outcome cache.Outcome
	reason  string // why upstream was asked; "": it was not
	start   time.Time
}

// ServeHTTP implements http.Handler. Everything goes out here: answers, errors,
// the counts and the access log.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{w: recorder{ResponseWriter: w}, r: r, outcome: cache.OutcomeError, start: time.Now()}
	x.target.index = len(h.routes.upstreams)
	err := h.answer(x)
	cut := false
	if err != nil {
		cut = h.fail(x, err)
	}
	h.finish(x, err)
	if cut {
		if x.w.status != statusClientGone {
			// The header first: a cut body says more than a connection that
			// closes without a word. That the client is gone is no matter.
			_ = http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler) // the only way to end a response that must not look whole (P 2.14)
	}
}

// answer runs the request; a panic in it is that request's error.
func (h *Handler) answer(x *exchange) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			h.log.Error("a request panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		}
	}()
	if x.r.URL.Host != "" || !strings.HasPrefix(x.r.URL.Path, "/") {
		return &oci.Error{Code: oci.CodeUnsupported, HTTPStatus: http.StatusBadRequest, Message: "this is a registry mirror, not a forward proxy: name it as a mirror, not as HTTP_PROXY"}
	}
	req, err := oci.ParseRequest(x.r.URL)
	x.req = req
	api := req.Kind != oci.KindOther || err != nil || strings.HasPrefix(x.r.URL.Path, "/v2/")
	if api {
		x.w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	}
	if m := x.r.Method; m != http.MethodGet && m != http.MethodHead { // before anything is looked up
		x.w.Header().Set("Allow", "GET, HEAD")
		return &oci.Error{Code: oci.CodeUnsupported, Message: "this is a read-only cache: push to the registry itself"}
	}
	switch {
	case err != nil:
		return err
	case !api:
		return h.page(x)
	}
	if req.Kind != oci.KindPing && req.Kind != oci.KindOther {
		if x.target, err = h.routes.resolve(req, x.r.Host); err != nil {
			x.target.index = len(h.routes.upstreams)
			return err
		}
		if x.target.via, err = h.routes.through(x.r); err != nil {
			return err
		}
		if req.Namespace != "" && req.Namespace != x.r.Host {
			x.w.Header()["Oci-Namespace"] = []string{req.Namespace}
		}
	}
	return h.serve[req.Kind](h, x)
}

// fail writes an error where that is still possible. It tells whether the
// connection must be cut instead.
func (h *Handler) fail(x *exchange, err error) (cut bool) {
	if x.r.Context().Err() != nil {
		// The client left: no failure of ours, and normal for those that fetch
		// in chunks (P 2.16).
		if x.w.status == 0 {
			x.w.status = statusClientGone
		}
		return true
	}
	x.outcome = cache.OutcomeError
	if x.w.status != 0 {
		return true
	}
	e := explain(x.req.Kind, x.target.direct, x.subject(), err)
	var un *unsatisfiable
	if errors.As(err, &un) {
		x.w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(un.size, 10))
	}
	writeError(&x.w, x.r, e)
	return false
}

// subject is what the request is about, for messages.
func (x *exchange) subject() string {
	ref := oci.Reference{Tag: x.req.Tag, Digest: x.req.Digest}
	switch {
	case x.target.up == nil:
		return oci.Quote(x.r.URL.Path)
	case ref.Ref() == "":
		return x.target.repository().String()
	}
	ref.Repository = x.target.repository()
	return ref.String()
}

// finish counts the request, remembers the client and writes the access log's
// line.
func (h *Handler) finish(x *exchange, err error) {
	took := time.Since(x.start)
	h.counts.observe(x)
	x.saved()
	address, _, serr := net.SplitHostPort(x.r.RemoteAddr)
	if serr != nil {
		address = x.r.RemoteAddr
	}
	h.clients.seen(x, address)
	level := zap.InfoLevel
	if x.w.status >= 500 || x.outcome == cache.OutcomeError && x.w.status < 400 { // the latter was cut
		level = zap.WarnLevel
	}
	entry := h.log.Check(level, "request")
	if entry == nil {
		return
	}
	var fields [13]zap.Field
	f := append(fields[:0],
		zap.String("method", x.r.Method), zap.String("kind", x.req.Kind.String()), zap.Int("status", x.w.status),
		zap.String("outcome", x.outcome.String()), zap.Int64("bytes", x.w.bytes), zap.Duration("duration", took),
		zap.String("client", address), zap.String("user_agent", cut256(x.r.UserAgent())))
	if x.target.up != nil {
		f = append(f, zap.String("upstream", x.target.up.Client.Name()), zap.String("repository", x.target.repo),
			zap.String("reference", oci.Reference{Tag: x.req.Tag, Digest: x.req.Digest}.Ref()))
	} else if x.req.Kind != oci.KindPing {
		f = append(f, zap.String("url", cut256(x.r.RequestURI)))
	}
	if x.reason != "" {
		f = append(f, zap.String("reason", x.reason))
	}
	switch {
	case err != nil && x.r.Context().Err() != nil:
		f = append(f, zap.Bool("client_left", true))
	case err != nil:
		f = append(f, zap.String("error", err.Error()))
	}
	entry.Write(f...)
}

// cut256 bounds what a client can put into the log; the encoder quotes it.
func cut256(s string) string { return s[:min(len(s), 256)] }

func (h *Handler) ping(x *exchange) error {
	x.outcome = cache.OutcomeHit
	if x.req.Prefix != "" {
		if _, ok := h.routes.lookup(x.req.Prefix); !ok {
			return unknownUpstream(x.req.Prefix)
		}
	}
	return x.write(oci.MediaTypeJSON, []byte("{}"))
}

func (h *Handler) other(x *exchange) error {
	return &oci.Error{Code: oci.CodeUnsupported, HTTPStatus: http.StatusNotFound, Message: "this is not an address of the registry API that a cache serves"}
}

// write answers 200 with a body that is at hand.
func (x *exchange) write(mediaType string, body []byte) error {
	head := x.w.Header()
	head.Set("Content-Type", mediaType)
	head.Set("Content-Length", strconv.Itoa(len(body)))
	x.w.WriteHeader(http.StatusOK)
	if x.r.Method == http.MethodHead {
		return nil
	}
	if _, err := x.w.Write(body); err != nil {
		return fmt.Errorf("writing to the client: %w", err)
	}
	return nil
}

// describe sets the headers that come with content (DESIGN section 7).
func (x *exchange) describe(c *cache.Content) {
	x.outcome, x.reason = c.Outcome, c.Reason
	h := x.w.Header()
	d := c.Digest.String()
	h["Docker-Content-Digest"] = []string{d}
	h["Etag"] = []string{etag(d)}
	x.status(c.Outcome, c.Stale, c.Since)
}

// status sets Cache-Status (RFC 9211) and Age.
func (x *exchange) status(o cache.Outcome, stale string, since time.Time) {
	h := x.w.Header()
	h["Cache-Status"] = []string{cacheStatus(o, stale)}
	age := int64(0)
	if o == cache.OutcomeHit || o == cache.OutcomeStale {
		age = max(0, int64(x.start.Sub(since)/time.Second))
	}
	h["Age"] = []string{strconv.FormatInt(age, 10)}
}

func cacheStatus(o cache.Outcome, stale string) string {
	switch o {
	case cache.OutcomeHit:
		return "cistern; hit"
	case cache.OutcomeJoin:
		return "cistern; fwd=miss; collapsed"
	case cache.OutcomeStale:
		return "cistern; fwd=stale; detail=" + strconv.Quote(stale)
	case cache.OutcomePass:
		return "cistern; fwd=miss; detail=not-stored"
	}
	return "cistern; fwd=miss"
}

// etag is what names content by its digest: content of another one is another.
func etag(digest string) string { return `"` + digest + `"` }
