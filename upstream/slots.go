package upstream

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// slots bound the requests under way and the bodies open at one time. Some
// are kept from blobs: a fill may last for minutes, and manifests are not to
// wait for one. Token requests take none; there are few of them, and whoever
// waits for one may hold the last slot.
type slots struct {
	all, blobs *semaphore.Weighted
}

func newSlots(n int) *slots {
	return &slots{all: semaphore.NewWeighted(int64(n)), blobs: semaphore.NewWeighted(int64(n - n/8))}
}

// take waits for a slot as long as ctx lives; free gives it back.
func (s *slots) take(ctx context.Context, blob bool) (free func(), err error) {
	if blob {
		if err := s.blobs.Acquire(ctx, 1); err != nil {
			return nil, err
		}
	}
	if err := s.all.Acquire(ctx, 1); err != nil {
		if blob {
			s.blobs.Release(1)
		}
		return nil, err
	}
	return func() {
		s.all.Release(1)
		if blob {
			s.blobs.Release(1)
		}
	}, nil
}
