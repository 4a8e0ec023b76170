package proxy

import (
	"context"

	"cistern/cache"
	"cistern/internal/oci"
)

// Verify hashes all that is cached (cache.Verify). What is damaged is fetched at once, if
// it is to repair, from where its tags say that it comes from.
func (h *Handler) Verify(ctx context.Context, repair bool, v cache.Verification) (cache.VerifyProgress, error) {
	if repair {
		v.Repository = func(r oci.Repository) (*cache.Repository, bool) {
			i, ok := h.routes.lookup(r.Upstream)
			if !ok {
				return nil, false
			}
			return target{up: &h.routes.upstreams[i], index: i, repo: r.Name, book: h.routes.book}.handle(), true
		}
	}
	return h.cache.Verify(ctx, v)
}
