package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"

	"cistern/cache"
	"cistern/internal/oci"
	"cistern/upstream"
)

// tags answers tags/list, a page at a time (P 3.23, 3.24).
func (h *Handler) tags(x *exchange) error {
	repo := x.target.repository()
	if x.req.N == 0 {
		body, err := json.Marshal(map[string]any{"name": repo.Name, "tags": []string{}})
		if err != nil {
			return fmt.Errorf("an empty tags list: %w", err)
		}
		x.outcome = cache.OutcomeHit
		return x.write(oci.MediaTypeJSON, body)
	}
	return h.list(x, fmt.Sprintf("tags %s %d %s", repo, x.req.N, x.req.Last), func(ctx context.Context) (*upstream.Document, error) {
		return x.target.up.Client.Tags(ctx, repo.Name, x.req.N, x.req.Last)
	})
}

// referrers answers the list of what refers to a manifest. What upstream does
// not have is a 404, so that clients look for the fallback tag; what upstream
// cannot say now is an error, never an empty list (P 3.19 to 3.21).
func (h *Handler) referrers(x *exchange) error {
	types := slices.Clone(x.req.ArtifactTypes)
	slices.Sort(types)
	key := fmt.Sprintf("referrers %s %s %q", x.target.repository(), x.req.Digest, types) // quoted: a filter may hold anything
	return h.list(x, key, func(ctx context.Context) (*upstream.Document, error) {
		return x.target.up.Client.Referrers(ctx, x.target.repo, x.req.Digest, types)
	})
}

func (h *Handler) list(x *exchange, key string, fetch func(context.Context) (*upstream.Document, error)) error {
	d, outcome, err := h.cache.Document(x.r.Context(), key, func(ctx context.Context) (*cache.Document, error) {
		d, err := fetch(x.target.source().on(ctx))
		if err != nil {
			return nil, err
		}
		return &cache.Document{Bytes: d.Bytes, MediaType: d.MediaType, Next: d.Next.Encode(), Filters: d.FiltersApplied}, nil
	})
	if err != nil {
		return err
	}
	x.outcome = outcome
	x.status(outcome, "", d.Since)
	if d.Next != "" {
		x.w.Header().Set("Link", "<"+x.nextPage(d.Next)+`>; rel="next"`)
	}
	if d.Filters != "" {
		x.w.Header().Set("OCI-Filters-Applied", d.Filters)
	}
	return x.write(d.MediaType, d.Bytes)
}

// nextPage is the next page's address here, in the dialect in which this one
// was asked for: never upstream's own, which clients refuse or follow past us.
func (x *exchange) nextPage(next string) string {
	q, err := url.ParseQuery(next)
	if err != nil {
		q = url.Values{}
	}
	q.Del("ns")
	if x.req.Namespace != "" {
		q.Set("ns", x.req.Namespace)
	}
	if x.req.Kind == oci.KindTags && !q.Has("n") && x.req.N > 0 {
		q.Set("n", strconv.Itoa(x.req.N))
	}
	return (&url.URL{Path: x.req.Path(), RawQuery: q.Encode()}).String()
}
