package cache

import (
	"context"
	"errors"
	"time"

	"cistern/internal/oci"
)

// rangeMiss is what the policy says; without one it is RangeExtent.
func (p *Policy) rangeMiss() RangeMiss {
	if p == nil {
		return RangeExtent
	}
	return p.RangeMiss
}

// passing is a blob of which ranges are read past the cache.
type passing struct {
	d     oci.Digest
	asks  []Range
	first *stream // of the first of them; nil: taken
}

// passRange opens ranges of a blob past the cache.
func (c *Cache) passRange(ctx context.Context, repo *Repository, d oci.Digest, asks []Range) (*Content, error) {
	upto, may := asks[0].End, c.allowance(repo, always)
	s := newStream(ctx, repo.Source, may, d, asks[0].Off, upto, -1)
	err := s.open()
	if errors.Is(err, oci.ErrCorrupt) || err == nil && s.size < 0 { // it lies behind the end, perhaps
		s.end()
		var info Resolved
		if info, err = repo.Source.BlobInfo(ctx, d); err == nil && info.Size < 0 {
			return c.follow(ctx, repo, d, nil)
		}
		s = newStream(ctx, repo.Source, may, d, asks[0].Off, upto, info.Size)
	}
	c.remember(repo.Repository, askedBlob(d), err)
	if err != nil {
		s.end()
		return nil, err
	}
	r := &Reader{c: c, ctx: ctx, size: s.size, repo: repo, pass: &passing{d, asks, s}, ranges: c.upstream(repo.Upstream)}
	return &Content{Descriptor: oci.Descriptor{Digest: d, Size: s.size}, Outcome: OutcomePass, Since: time.Now(), Reader: r}, nil
}

// around is the detour of a reader at an offset.
func (p *passing) around(r *Reader) *detour {
	dt := &detour{d: p.d, of: r.ranges}
	if dt.s, p.first = p.first, nil; dt.s == nil || dt.s.off != r.off {
		if dt.s != nil {
			dt.s.end()
		}
		dt.s = newStream(r.ctx, r.repo.Source, r.may(), p.d, r.off, within(p.asks, r.off), r.size)
	}
	return dt
}

// within is where the range ends that off lies in; -1: none, or at the blob's end.
func within(asks []Range, off int64) int64 {
	for _, a := range asks {
		if a.Off <= off && off < a.End {
			return a.End
		}
	}
	return -1
}

// close is fine on nil.
func (p *passing) close() {
	if p != nil && p.first != nil {
		p.first.end()
	}
}
