package proxy

import (
	"fmt"
	"net/http"
	"strings"

	"cistern/cache"
	"cistern/internal/oci"
)

// manifest answers GET and HEAD of a manifest. A Range header is ignored
// (P 2.19).
func (h *Handler) manifest(x *exchange) error {
	ctx, repo := x.r.Context(), x.target.handle()
	ref := oci.Reference{Repository: repo.Repository, Tag: x.req.Tag, Digest: x.req.Digest}
	get := h.cache.Manifest
	if x.r.Method == http.MethodHead {
		get = h.cache.StatManifest
	}
	c, err := get(ctx, repo, ref)
	if err != nil {
		return err
	}
	if ref.Digest.IsZero() && !oci.Accepts(x.r.Header["Accept"], c.MediaType) {
		if c, err = h.negotiate(x, ref); err != nil {
			return err
		}
	}
	x.describe(c)
	if unchanged(x.r, c) {
		x.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if x.r.Method == http.MethodHead {
		x.w.Header()["Content-Type"] = []string{c.MediaType}
		x.w.Header().Set("Content-Length", fmt.Sprint(c.Size))
		x.w.WriteHeader(http.StatusOK)
		return nil
	}
	return x.write(c.MediaType, c.Bytes)
}

// negotiate asks upstream with the client's own Accept, for a client that does
// not take what the superset brought; the answer is relayed and not kept
// (P 3.11).
func (h *Handler) negotiate(x *exchange, ref oci.Reference) (*cache.Content, error) {
	m, err := fetchManifest(x.r.Context(), x.target.source(), ref.Ref(), strings.Join(x.r.Header["Accept"], ", "))
	if err != nil {
		return nil, err
	}
	return &cache.Content{
		Descriptor: oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Bytes))},
		Outcome:    cache.OutcomePass, Since: x.start, Bytes: m.Bytes,
	}, nil
}

// unchanged tells whether the client has this manifest already (P 3.15).
func unchanged(r *http.Request, c *cache.Content) bool {
	for _, line := range r.Header["If-None-Match"] {
		for tag := range strings.SplitSeq(line, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == "*" || strings.Trim(tag, `"`) == c.Digest.String() {
				return true
			}
		}
	}
	return false
}
