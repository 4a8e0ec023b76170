package admin

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"cistern/cache"
	"cistern/internal/oci"
)

// What is kept, and what will not be.

// Eviction is the answer to GET /api/v1/evict: what would go next, the first one first.
type Eviction struct {
	Next []cache.Next `json:"next"`
}

// Pins is the answer to GET /api/v1/pins: what is pinned, by name.
type Pins struct {
	Pins []cache.Pin `json:"pins"`
}

func (h *Handler) pins(w http.ResponseWriter, r *http.Request) {
	pins, err := h.o.Kept.Pins()
	if err != nil {
		fail(w, r, http.StatusServiceUnavailable, err.Error())
		return
	}
	answer(w, Pins{pins})
}

// flushEvery is how long lines of a list wait for more.
const flushEvery = 50 * time.Millisecond

// images answers with a line of JSON for each image, as they are found: there may be
// many, and the manifests of all are read for it. One list is made at a time.
func (h *Handler) images(w http.ResponseWriter, r *http.Request) {
	if !h.listing.TryLock() {
		fail(w, r, http.StatusServiceUnavailable, "the images are being listed for somebody else: ask again")
		return
	}
	defer h.listing.Unlock()
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, out, flushed := json.NewEncoder(w), http.NewResponseController(w), time.Time{}
	for i, err := range h.o.Kept.Images() {
		if err != nil {
			_ = enc.Encode(failure{err.Error()})
			return
		}
		if r.Context().Err() != nil || enc.Encode(i) != nil {
			return
		}
		if time.Since(flushed) > flushEvery {
			_ = out.Flush()
			flushed = time.Now()
		}
	}
}

// image answers with what ?image= consists of.
func (h *Handler) image(w http.ResponseWriter, r *http.Request) {
	name, ok := named(w, r)
	if !ok {
		return
	}
	i, err := h.o.Images.Image(r.Context(), name)
	if err != nil {
		fail(w, r, statusOf(err), err.Error())
		return
	}
	answer(w, i)
}

// blob answers with what is known of ?digest=.
func (h *Handler) blob(w http.ResponseWriter, r *http.Request) {
	d, err := oci.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		fail(w, r, http.StatusBadRequest, "name the digest: /api/v1/blob?digest=sha256:...")
		return
	}
	answer(w, h.o.Kept.Seen(d))
}

// evictNext answers with what would go for ?bytes=, a GiB if that is left out.
func (h *Handler) evictNext(w http.ResponseWriter, r *http.Request) {
	want := int64(1 << 30)
	if s := r.URL.Query().Get("bytes"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n <= 0 {
			fail(w, r, http.StatusBadRequest, "bytes is a number above zero")
			return
		}
		want = n
	}
	next, err := h.o.Kept.EvictNext(want)
	if err != nil {
		fail(w, r, http.StatusInternalServerError, err.Error())
		return
	}
	answer(w, Eviction{next})
}
