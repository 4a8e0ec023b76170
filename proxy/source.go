package proxy

import (
	"context"

	"cistern/cache"
	"cistern/internal/oci"
	"cistern/proxy/savings"
	"cistern/upstream"
)

// source is one repository of an upstream, as the cache wants to see it.
type source struct {
	u    *upstream.Upstream
	repo string
	via  string
	book *savings.Book
}

// on is the context of what is asked of upstream: who asks, and whom it is put down to.
func (s source) on(ctx context.Context) context.Context {
	return upstream.WithMeter(upstream.WithVia(ctx, s.via), s.cost)
}

// cost is an upstream.Meter. What upstream sends something of is there.
func (s source) cost(received, pulls uint64) {
	s.book.Add(s.u.Name(), s.repo, true, savings.Tally{Received: received, Spent: pulls})
}

var _ cache.Source = source{}

func (s source) Healthy() bool { return s.u.Healthy() }

func (s source) Manifest(ctx context.Context, ref string) (*cache.Manifest, error) {
	return fetchManifest(ctx, s, ref, "")
}

// fetchManifest is Manifest with an Accept header of the caller's choice.
func fetchManifest(ctx context.Context, s source, ref, accept string) (*cache.Manifest, error) {
	m, err := s.u.Manifest(s.on(ctx), s.repo, ref, accept)
	if err != nil {
		return nil, err
	}
	return &cache.Manifest{Bytes: m.Bytes, MediaType: m.MediaType, Digest: m.Digest, Private: m.Private, Unkept: m.Uncacheable}, nil
}

func (s source) Resolve(ctx context.Context, ref string) (cache.Resolved, error) {
	r, err := s.u.Resolve(s.on(ctx), s.repo, ref)
	return cache.Resolved{Descriptor: r.Descriptor, Private: r.Private}, err
}

func (s source) BlobInfo(ctx context.Context, d oci.Digest) (cache.Resolved, error) {
	r, err := s.u.BlobInfo(s.on(ctx), s.repo, d)
	return cache.Resolved{Descriptor: r.Descriptor, Private: r.Private}, err
}

func (s source) Blob(ctx context.Context, d oci.Digest, off, end int64) (*cache.Body, error) {
	b, err := s.u.Blob(s.on(ctx), s.repo, d, off, end)
	return s.body(b), err
}

// body is what the cache sees of a body; nil for none.
func (s source) body(b *upstream.Body) *cache.Body {
	if b == nil {
		return nil
	}
	return &cache.Body{
		ReadCloser: b, Size: b.Size, Offset: b.Offset, Whole: b.Whole, Host: b.Host, Private: b.Private, Blame: b.Blame,
		Again: func(ctx context.Context, off, end int64) (*cache.Body, error) {
			again, err := b.Again(s.on(ctx), off, end)
			return s.body(again), err
		},
	}
}
