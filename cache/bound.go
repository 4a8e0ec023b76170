package cache

import (
	"sync"
	"time"
)

// stoodStill tells from a deadline that just ended something whether it was the
// process that stood still and not upstream: nobody wakes up so late else. A
// process that was stopped, or whose machine was, finds all its timers run out
// and all its answers there.
func stoodStill(deadline time.Time) bool { return time.Since(deadline) > time.Second }

// bound calls late when d has passed, unless stop is called before, which tells
// whether it was in time. A time in which the process stood still does not count: what
// is under way would be given up with its answer lying there.
func bound(d time.Duration, late func()) (stop func() bool) {
	var mu sync.Mutex
	over, called, deadline := false, false, time.Now().Add(d)
	mu.Lock()
	defer mu.Unlock()
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case over:
		case stoodStill(deadline):
			deadline = time.Now().Add(d)
			t.Reset(d)
		default:
			called = true
			late()
		}
	})
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		over = true
		t.Stop()
		return !called
	}
}
