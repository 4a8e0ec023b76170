package cache

import (
	"context"
	"time"

	"cistern/cache/bandwidth"
)

// allowance is what the streams of a fill, or of one reader that goes by it, may
// read of an upstream's blobs: their share of what that upstream, and all together,
// are limited to. nil: as much as comes. Safe for concurrent use.
type allowance struct {
	upstream, total *bandwidth.Share
	limits          [2]*bandwidth.Limit
	counts          *upstreamCounters
}

// allowance makes one for what somebody waits for while awaited says so.
func (c *Cache) allowance(repo *Repository, awaited func() bool) *allowance {
	limits := [2]*bandwidth.Limit{nil, c.o.Bandwidth}
	if repo.Policy != nil {
		limits[0] = repo.Policy.Bandwidth
	}
	if limits[0] == nil && limits[1] == nil {
		return nil
	}
	return &allowance{limits[0].Share(awaited), limits[1].Share(awaited), limits, c.upstream(repo.Upstream)}
}

// take waits for at most n bytes and tells how many may be read; first is for who is
// waited for more than others of the same fill.
func (a *allowance) take(ctx context.Context, n int, first bool) (int, error) {
	since := time.Now()
	n, err := a.upstream.Take(ctx, n, first)
	if err == nil {
		n, err = a.total.Take(ctx, n, first)
	}
	a.counts.held.Add(int64(time.Since(since)))
	return n, err
}

// full tells whether a limit, and not the line, is what holds the streams up.
func (a *allowance) full() bool {
	return a != nil && (a.limits[0].Full() || a.limits[1].Full())
}
