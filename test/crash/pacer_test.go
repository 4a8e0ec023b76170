package crash_test

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A pacer lets bytes through at a rate, those of all answers that share it together. nil lets them through at once.
type pacer struct {
	rate int64 // bytes a second

	mu   sync.Mutex
	next time.Time // guarded by mu: when what comes next may go
}

// pass waits until the time of n bytes is over.
func (p *pacer) pass(ctx context.Context, n int) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	wait := p.next.Sub(now)
	p.mu.Unlock()
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pace has a thing come at a rate from now on: each answer, or all of them together.
func (o *origin) pace(x *thing, rate int64, each bool) {
	all := &pacer{rate: rate}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pacers[x] = func() *pacer {
		if each {
			return &pacer{rate: rate}
		}
		return all
	}
}

// unpace ends that for what is asked for from now on.
func (o *origin) unpace(x *thing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.pacers, x)
}

// begins notes that an answer with a thing begins, and tells how fast it is to be.
func (o *origin) begins(x *thing) *pacer {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open[x]++
	o.most[x] = max(o.most[x], o.open[x])
	switch paced := o.pacers[x]; {
	case paced != nil:
		return paced()
	case o.slow.Load() && x.size() > mib:
		return &pacer{rate: 60 * mib}
	}
	return nil
}

// ends notes that it has ended.
func (o *origin) ends(x *thing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open[x]--; o.open[x] == 0 {
		delete(o.open, x)
	}
}

// several tells whether answers with a thing were under way beside each other.
func (o *origin) several(x *thing) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.most[x] > 1
}

// idle tells whether no answer with a thing is under way.
func (o *origin) idle() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.open); n > 0 {
		return fmt.Errorf("answers with %d things are under way", n)
	}
	return nil
}

// total is how many body bytes of a thing were sent since piecesSince.
func (o *origin) total(x *thing) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return sum(o.pieces[x])
}
