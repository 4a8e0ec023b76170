package cache

import (
	"context"
	"sync/atomic"

	"cistern/internal/oci"
)

// placed is the source of one fill: it asks for more of the blob where the last part
// of it came from. It is safe for concurrent use.
type placed struct {
	Source
	again atomic.Pointer[func(ctx context.Context, off, end int64) (*Body, error)]
}

// placedAnew is a source that knows no place yet.
func placedAnew(s Source) *placed {
	if p, ok := s.(*placed); ok {
		s = p.Source
	}
	return &placed{Source: s}
}

// Blob implements Source, for the one blob.
func (p *placed) Blob(ctx context.Context, d oci.Digest, off, end int64) (b *Body, err error) {
	if again := p.again.Load(); again != nil {
		if b, err = (*again)(ctx, off, end); err != nil {
			p.again.CompareAndSwap(again, nil) // it may hang
		}
	} else {
		b, err = p.Source.Blob(ctx, d, off, end)
	}
	if err == nil && b.Again != nil {
		p.again.Store(&b.Again)
	}
	return b, err
}
