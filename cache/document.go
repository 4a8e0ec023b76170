package cache

import (
	"context"
	"time"
)

// maxDocument is the largest document that is kept. With documentsKept it bounds
// what they take: lists without a page size can be of megabytes, and whoever
// asks decides how many of them there are.
const maxDocument = 64 << 10

// Document is a list that upstream makes up on the spot, a page of tags or of
// referrers: kept in memory for a short while, under no digest.
type Document struct {
	Bytes     []byte
	MediaType string
	Next      string // raw query of the next page; "" if this is the last
	Filters   string // OCI-Filters-Applied, as upstream sent it
	Private   bool
	Since     time.Time
}

// Document gives the document under key, which names all that decides its
// content: upstream, repository, kind and query. It is fetched once for all who
// wait. Failures are never turned into an empty or an old list (P 3.20).
func (c *Cache) Document(ctx context.Context, key string, fetch func(context.Context) (*Document, error)) (*Document, Outcome, error) {
	if d, ok := c.docs.Get(key); ok && time.Since(d.Since) < documentFresh {
		return d, OutcomeHit, nil
	}
	outcome := OutcomeJoin
	d, err := share(ctx, c, "document "+key, func(ctx context.Context) (*Document, error) {
		outcome = OutcomeMiss
		d, err := fetch(ctx)
		if err != nil {
			return nil, err
		}
		d.Since = time.Now()
		if len(d.Bytes) <= maxDocument {
			c.docs.Add(key, d)
		}
		return d, nil
	})
	if err != nil {
		return nil, OutcomeError, err
	}
	return d, outcome, nil
}
