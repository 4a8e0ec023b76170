package cache

import (
	"context"
	"fmt"
	"time"

	"cistern/cache/flight"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// Content is a blob or manifest that can be read, or its description.
type Content struct {
	oci.Descriptor // Size -1: not known until the end
	Outcome        Outcome
	Since          time.Time // upstream's last word on it, for Age
	Stale          string    // why there is no newer word; "" unless Outcome is stale
	Reason         string    // why upstream was asked; "": it was not
	Bytes          []byte    // a small blob whole, until Close; then Reader is nil
	Reader         *Reader

	follower *flight.Reader // whose flight Bytes are of; nil: they stay
}

// Close releases the content. Further calls do nothing.
func (c *Content) Close() {
	if c.follower != nil {
		c.follower.Close()
	}
	if c.Reader != nil {
		c.Reader.Close()
	}
}

// Range is bytes [Off, End) of a blob. End < 0 is its end, and Off < 0 its last
// -Off bytes.
type Range = flight.Want

// Blob gives a blob: from memory or disk, along with a fill under way, or by a
// fill of its own. It returns when the size is known or upstream has answered
// without one; the bytes may still be on their way. The reader stops waiting
// when ctx ends. Where only parts of it are asked for, in the order in which they
// will be read, only they are fetched; the reader reads all the same whatever it
// is sought to (P 5.5).
func (c *Cache) Blob(ctx context.Context, repo *Repository, d oci.Digest, asks ...Range) (*Content, error) {
	for range maxRounds {
		if content, err := c.hit(ctx, repo, d); content != nil || err != nil {
			return content, err
		}
		if err := c.refusal(repo.Repository, askedBlob(d)); err != nil {
			return nil, err
		}
		asks, err := c.settleRanges(ctx, repo, d, asks)
		if err != nil {
			return nil, err
		}
		var content *Content
		if _, filling := c.flights.Get(d); len(asks) > 0 && !filling && repo.Policy.rangeMiss() == RangePass {
			content, err = c.passRange(ctx, repo, d, asks)
		} else {
			content, err = c.follow(ctx, repo, d, asks)
		}
		if content != nil || err != nil {
			return c.because(content), err
		}
	}
	return nil, errUnsettled
}

// settleRanges finds out where ranges begin that are given from the blob's end, and
// gives none if all of it is asked for: also by an open range from 0.
func (c *Cache) settleRanges(ctx context.Context, repo *Repository, d oci.Digest, asks []Range) ([]Range, error) {
	if repo.Policy.rangeMiss() == RangeFill {
		return nil, nil
	}
	size := int64(-1)
	var settled []Range
	for _, a := range asks {
		if a.Off < 0 && size < 0 {
			about, err := c.Stat(ctx, repo, d)
			if err != nil {
				return nil, err
			}
			if size = about.Size; size < 0 {
				return nil, nil
			}
		}
		if a.Off < 0 {
			a = Range{Off: max(0, size+a.Off), End: size}
		}
		if a.Off == 0 && (a.End < 0 || a.End == size) {
			return nil, nil
		}
		settled = append(settled, a)
	}
	return settled, nil
}

// maxRounds bounds how often a request starts over: because a blob was evicted
// between look-up and open, or because a fill that it had joined failed for a
// reason that was another repository's.
const maxRounds = 4

var errUnsettled = fmt.Errorf("the blob comes and goes faster than it can be opened: %w", oci.ErrUnavailable)

// hit serves what is here; nil and no error if nothing is.
func (c *Cache) hit(ctx context.Context, repo *Repository, d oci.Digest) (*Content, error) {
	if e, ok := c.hot.get(d); ok {
		why, err := c.allowBlob(ctx, repo, e.rec)
		if err != nil {
			return nil, err
		}
		c.touchHot(e)
		return &Content{Descriptor: describe(e.rec), Since: e.rec.FirstSeen, Reason: why, Bytes: e.data}, nil
	}
	rec, ok := c.findStored(d)
	if !ok {
		rec, ok = c.proveNow(d, maxCollect)
	}
	if !ok {
		return nil, nil
	}
	why, err := c.allowBlob(ctx, repo, rec)
	if err != nil {
		return nil, err
	}
	if rec.Size <= maxHot {
		data, rec, ok := c.small(d, maxHot)
		if !ok {
			return nil, nil
		}
		return &Content{Descriptor: describe(rec), Since: rec.FirstSeen, Reason: why, Bytes: data}, nil
	}
	f, ok := c.openStored(rec)
	if !ok {
		return nil, nil
	}
	c.touch(d, time.Now())
	return &Content{Descriptor: describe(rec), Since: rec.FirstSeen, Reason: why, Reader: &Reader{c: c, ctx: ctx, size: rec.Size, file: f, rec: rec, repo: repo}}, nil
}

// allowBlob is allow for a blob. What is a manifest here is no blob, so that
// both endpoints agree on what a digest is (P 2.2).
func (c *Cache) allowBlob(ctx context.Context, repo *Repository, rec index.Record) (why string, err error) {
	if rec.Class == index.ClassManifest {
		return "", errIsManifest
	}
	return c.allow(ctx, repo, rec.Digest, rec.Public, false)
}

var errIsManifest = &oci.Error{Code: oci.CodeBlobUnknown, Message: "the digest is that of a manifest, not of a blob", Err: oci.ErrNotFound}

func describe(rec index.Record) oci.Descriptor {
	return oci.Descriptor{MediaType: rec.MediaType, Digest: rec.Digest, Size: rec.Size}
}

// Stat tells a blob's size without fetching it: from what is here, from a fill
// under way, or from upstream. It starts no fill.
func (c *Cache) Stat(ctx context.Context, repo *Repository, d oci.Digest) (*Content, error) {
	rec, ok := c.find(d)
	if !ok {
		rec, ok = c.proveNow(d, maxCollect)
	}
	if ok {
		why, err := c.allowBlob(ctx, repo, rec)
		if err != nil {
			return nil, err
		}
		return &Content{Descriptor: describe(rec), Since: rec.FirstSeen, Reason: why}, nil
	}
	if f, ok := c.flights.Get(d); ok {
		if size, err := f.Size(ctx); err == nil && size >= 0 {
			if why, err := c.allow(ctx, repo, d, !f.private, false); err == nil {
				return &Content{Descriptor: oci.Descriptor{Digest: d, Size: size}, Outcome: OutcomeJoin, Reason: why, Since: time.Now()}, nil
			}
		}
	}
	if err := c.refusal(repo.Repository, askedBlob(d)); err != nil {
		return nil, err
	}
	r, err := share(ctx, c, "stat "+d.String()+" "+repo.String(), func(ctx context.Context) (Resolved, error) {
		r, err := repo.Source.BlobInfo(ctx, d)
		c.remember(repo.Repository, askedBlob(d), err)
		return r, err
	})
	if err != nil {
		return nil, err
	}
	r.Descriptor.Digest, r.Descriptor.MediaType = d, "" // as a GET would have it
	return c.because(&Content{Descriptor: r.Descriptor, Outcome: OutcomeMiss, Since: time.Now()}), nil
}
