package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"cistern/cache"
	"cistern/internal/oci"
	"cistern/proxy"
)

// Images that are carried out of the cache and in. The archives are the client's
// business: here go lists, and blobs one by one.

// Carrier hands images out and takes them in, *proxy.Handler.
type Carrier interface {
	// Bundle tells what of an image can be carried.
	Bundle(ctx context.Context, image string) (cache.Bundle, error)
	// OpenKept opens what is here of a digest.
	OpenKept(d oci.Digest) (*cache.Kept, error)
	// Import takes in a bundle; it tells what is to be sent of it first.
	Import(ctx context.Context, b cache.Bundle) (cache.Imported, error)
	// ImportBlob keeps a part of an image's bundle.
	ImportBlob(ctx context.Context, image string, p cache.Carried, r io.Reader) error
}

var _ Carrier = (*proxy.Handler)(nil)

const (
	// maxBundle bounds the list of what an image consists of, in bytes.
	maxBundle = 32 << 20
	// stallTimeout is how long a body that is sent here may stand still.
	stallTimeout = time.Minute
)

// carryRoutes are the addresses of export and import.
func (h *Handler) carryRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/v1/bundle", h.bundle)
	mux.HandleFunc("PUT /api/v1/bundle", h.importBundle)
	mux.HandleFunc("GET /api/v1/blob/{digest}", h.keptBlob)
	mux.HandleFunc("PUT /api/v1/blob/{digest}", h.importBlob)
}

// bundle answers with what can be carried of ?image=.
func (h *Handler) bundle(w http.ResponseWriter, r *http.Request) {
	name, ok := named(w, r)
	if !ok {
		return
	}
	b, err := h.o.Carrier.Bundle(r.Context(), name)
	if err != nil {
		fail(w, r, statusOf(err), err.Error())
		return
	}
	h.log.Info("admin export", zap.String("image", cut(b.Image)), zap.Stringer("digest", b.Target.Digest), zap.String("client", r.RemoteAddr))
	answer(w, b)
}

// keptBlob sends what is here of a digest.
func (h *Handler) keptBlob(w http.ResponseWriter, r *http.Request) {
	d, ok := digestOf(w, r)
	if !ok {
		return
	}
	k, err := h.o.Carrier.OpenKept(d)
	if err != nil {
		fail(w, r, statusOf(err), err.Error())
		return
	}
	defer k.Close()
	w.Header().Set("Content-Type", oci.MediaTypeOctetStream)
	w.Header().Set("Content-Length", strconv.FormatInt(k.Size, 10))
	if r.Method == http.MethodHead {
		return
	}
	for sent := int64(0); sent < k.Size; {
		began := time.Now()
		n, err := io.CopyN(w, k.ReadSeeker, min(k.Bite(), k.Size-sent)) // sendfile
		if err != nil {
			panic(http.ErrAbortHandler) // it is shorter than it was, or nobody reads: a cut answer says so
		}
		sent += n
		select {
		case <-time.After(k.Rest(n, time.Since(began))):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

func digestOf(w http.ResponseWriter, r *http.Request) (oci.Digest, bool) {
	d, err := oci.ParseDigest(r.PathValue("digest"))
	if err != nil {
		fail(w, r, http.StatusBadRequest, err.Error())
	}
	return d, err == nil
}

// importBundle takes in the bundle that is the body.
func (h *Handler) importBundle(w http.ResponseWriter, r *http.Request) {
	var b cache.Bundle
	if err := json.NewDecoder(http.MaxBytesReader(w, h.steady(w, r), maxBundle)).Decode(&b); err != nil {
		fail(w, r, http.StatusBadRequest, fmt.Sprintf("the body is not a bundle: %v", err))
		return
	}
	i, err := h.o.Carrier.Import(r.Context(), b)
	if err != nil {
		h.refuseImport(w, r, b.Image, err)
		return
	}
	if len(i.Missing) == 0 {
		h.log.Info("admin import", zap.String("image", cut(i.Image)), zap.String("tag", string(i.Tag)), zap.Stringer("digest", b.Target.Digest), zap.String("client", r.RemoteAddr))
	}
	answer(w, i)
}

// importBlob keeps the body: a part of ?image=, private if ?private= says so, and a
// manifest if ?manifest= gives a media type.
func (h *Handler) importBlob(w http.ResponseWriter, r *http.Request) {
	d, ok := digestOf(w, r)
	if !ok {
		return
	}
	if r.ContentLength < 0 {
		fail(w, r, http.StatusLengthRequired, "say how long the blob is: Content-Length")
		return
	}
	q := r.URL.Query()
	private, _ := strconv.ParseBool(q.Get("private"))
	p := cache.Carried{Digest: d, Size: r.ContentLength, MediaType: q.Get("manifest"), Manifest: q.Has("manifest"), Private: private}
	if err := h.o.Carrier.ImportBlob(r.Context(), q.Get("image"), p, h.steady(w, r)); err != nil {
		h.refuseImport(w, r, q.Get("image"), err)
		return
	}
	answer(w, struct{}{})
}

func (h *Handler) refuseImport(w http.ResponseWriter, r *http.Request, image string, err error) {
	h.log.Warn("admin import failed", zap.String("image", cut(image)), zap.String("client", r.RemoteAddr), zap.Error(err))
	fail(w, r, statusOf(err), err.Error())
}

// steady is the body of a request, which must not stand still.
func (h *Handler) steady(w http.ResponseWriter, r *http.Request) io.ReadCloser {
	return &steady{r.Body, http.NewResponseController(w)}
}

type steady struct {
	io.ReadCloser
	at *http.ResponseController
}

// Read implements io.Reader.
func (s *steady) Read(p []byte) (int, error) {
	if err := s.at.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	n, err := s.ReadCloser.Read(p)
	if err == io.EOF { // the deadline must not end a long answer
		_ = s.at.SetReadDeadline(time.Time{})
	}
	return n, err
}
