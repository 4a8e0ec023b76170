package bandwidth

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const mib = 1 << 20

// read starts readers of one share, each of which goes on until ctx ends.
func read(ctx context.Context, wg *sync.WaitGroup, readers int, first bool, shares ...*Share) *atomic.Int64 {
	var got atomic.Int64
	for range readers {
		wg.Go(func() {
			for {
				n := 64 << 10
				for _, s := range shares {
					var err error
					if n, err = s.Take(ctx, n, first); err != nil {
						return
					}
				}
				got.Add(int64(n))
			}
		})
	}
	return &got
}

func yes() bool { return true }
func no() bool  { return false }

// near fails the test if a count is not within a tenth of what is expected.
func near(t *testing.T, what string, got int64, want float64) {
	t.Helper()
	if math.Abs(float64(got)-want) > want/10 {
		t.Errorf("%s: %d bytes, expected %.0f", what, got, want)
	}
}

// TestRate: what all shares get together is the limit, whatever its size, and no
// less.
func TestRate(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{16 << 10, mib, 20 * mib, 200 * mib} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			l := New(limit)
			a := read(ctx, &wg, 3, false, l.Share(yes))
			b := read(ctx, &wg, 1, false, l.Share(no))
			time.Sleep(time.Second)
			if !l.Full() {
				t.Error("the limit is not full, and four wait for it")
			}
			wg.Wait()
			near(t, "ten seconds", a.Load()+b.Load(), 10*float64(limit))
		})
	}
}

// TestFair: a share with sixteen readers gets what one with a single reader gets.
func TestFair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		l := New(3 * mib)
		many := read(ctx, &wg, 16, false, l.Share(yes))
		one := read(ctx, &wg, 1, false, l.Share(yes))
		two := read(ctx, &wg, 2, false, l.Share(yes))
		wg.Wait()
		for what, got := range map[string]int64{"sixteen readers": many.Load(), "one": one.Load(), "two": two.Load()} {
			near(t, what, got, 10*mib)
		}
	})
}

// TestLateComer: who comes later does not make up for what it did not want before.
func TestLateComer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		l := New(2 * mib)
		first := read(ctx, &wg, 2, false, l.Share(yes))
		time.Sleep(10 * time.Second)
		before := first.Load()
		second := read(ctx, &wg, 2, false, l.Share(yes))
		wg.Wait()
		near(t, "the first, beside the second", first.Load()-before, 10*mib)
		near(t, "the second", second.Load(), 10*mib)
	})
}

// TestAwaited: what nobody waits for gets a sixteenth of the turns, and all of it
// when it is alone. What somebody begins to wait for is an equal at once, and makes
// up for nothing.
func TestAwaited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		front, stop := context.WithTimeout(t.Context(), 30*time.Second)
		defer stop()
		var wg sync.WaitGroup
		var wanted atomic.Bool
		l := New(2 * mib)
		awaited := read(front, &wg, 2, false, l.Share(yes))
		other := read(ctx, &wg, 8, false, l.Share(wanted.Load))
		time.Sleep(time.Second) // at first there is some for all
		before, beforeOther := awaited.Load(), other.Load()
		time.Sleep(9 * time.Second)
		near(t, "awaited", awaited.Load()-before, 18*mib*15/16)
		near(t, "not awaited", other.Load()-beforeOther, 18*mib/16)
		wanted.Store(true)
		before = other.Load()
		time.Sleep(20 * time.Second)
		near(t, "awaited by now", other.Load()-before, 20*mib)
		wanted.Store(false)
		before = other.Load()
		wg.Wait()
		near(t, "alone", other.Load()-before, 20*mib)
	})
}

// TestFirst: of one share, who is first is before the others.
func TestFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		s := New(mib).Share(yes)
		rest := read(ctx, &wg, 4, false, s)
		first := read(ctx, &wg, 1, true, s)
		wg.Wait()
		if first.Load() < 3*rest.Load()/4 { // between two of its turns one of the others is served
			t.Errorf("first has %d bytes, the rest %d", first.Load(), rest.Load())
		}
	})
}

// TestTwoLimits: of two upstreams with limits of their own under a common one, each
// gets its share of that, and what one cannot use the other gets.
func TestTwoLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		total, slow, fast := New(10*mib), New(2*mib), New(20*mib)
		a := read(ctx, &wg, 3, false, slow.Share(yes), total.Share(yes))
		b := read(ctx, &wg, 3, false, fast.Share(yes), total.Share(yes))
		c := read(ctx, &wg, 3, false, total.Share(yes))
		wg.Wait()
		near(t, "slow", a.Load(), 20*mib)
		near(t, "fast", b.Load(), 40*mib)
		near(t, "no limit of its own", c.Load(), 40*mib)
	})
}

// TestLeave: who gives up waiting is given nothing, and keeps nobody else from it.
func TestLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		l := New(64 << 10)
		stays := read(ctx, &wg, 1, false, l.Share(yes))
		why := errors.New("left")
		for i := range 50 {
			wg.Go(func() {
				gone, leave := context.WithCancelCause(ctx)
				stop := time.AfterFunc(time.Duration(i)*100*time.Millisecond, func() { leave(why) })
				defer stop.Stop()
				s := l.Share(yes)
				for {
					if _, err := s.Take(gone, 4<<10, i%2 == 0); err != nil {
						if !errors.Is(err, why) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		time.Sleep(5 * time.Second)
		before := stays.Load()
		wg.Wait()
		near(t, "alone again", stays.Load()-before, 5*64<<10)
	})
}

// TestNone: a limit that is none costs nothing and needs nobody to ask for it.
func TestNone(t *testing.T) {
	t.Parallel()
	l := New(0)
	if n, err := l.Share(yes).Take(t.Context(), 123, false); n != 123 || err != nil || l.Full() {
		t.Errorf("Take gave %d, %v; Full %v", n, err, l.Full())
	}
}
