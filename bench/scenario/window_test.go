package scenario

import (
	"testing"
	"time"
)

// One stall makes all the requests late that should have been made within it.
func TestPace(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1000, 0)
	p := pace{due: begin, every: 10 * time.Millisecond}
	if wait, _ := p.next(begin.Add(2 * time.Millisecond)); wait != 8*time.Millisecond {
		t.Errorf("waits %s, want 8ms", wait)
	}
	// The answer to that one took until 45 ms.
	now := begin.Add(45 * time.Millisecond)
	for i, want := range []time.Duration{25, 15, 5} {
		wait, from := p.next(now)
		if wait != 0 || now.Sub(from) != want*time.Millisecond {
			t.Errorf("late request %d: waits %s, counted from %s before", i, wait, now.Sub(from))
		}
	}
	if wait, _ := p.next(now); wait != 5*time.Millisecond {
		t.Errorf("then waits %s, want 5ms", wait)
	}
	p = pace{}
	if wait, from := p.next(now); wait != 0 || !from.Equal(now) {
		t.Errorf("without a pace: %s, %s", wait, from)
	}
}
