// Package shape imposes the latency and the bandwidth of a far-away registry on
// loopback connections, in user space: a round trip before each answer (one more
// on a fresh connection, for the handshake), a total rate shared by all
// connections and a rate for each. It has no slow start and no loss, and it is
// not for limiting anything in production: waits are not cancelled by a close.
package shape

import (
	"sync"
	"time"
)

// slack is how late a sender may come back and still be given the time it lost.
// Timers fire up to a millisecond late and a busy machine adds more; without it
// a link of 100 MB/s would carry 80. A sender that was idle longer starts anew
// and gets no burst.
const slack = 20 * time.Millisecond

// Bucket hands out transmission slots one after the other, first come first
// served. The zero value is ready. Safe for concurrent use.
type Bucket struct {
	mu sync.Mutex
	// next is when the link is free again; guarded by mu.
	next time.Time
}

// Reserve takes the slot for n bytes at rate bytes a second and returns how long
// to wait until they have passed. A rate of zero or less means no limit.
func (b *Bucket) Reserve(n int, rate int64) time.Duration {
	if rate <= 0 {
		return 0
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.next) > slack {
		b.next = now
	}
	b.next = b.next.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	return max(b.next.Sub(now), 0)
}
