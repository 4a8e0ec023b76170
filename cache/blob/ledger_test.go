package blob

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// disk is a file system of which only the free space matters.
type disk struct {
	mu         sync.Mutex
	size, free int64
	err        error
}

func (d *disk) statfs() (int64, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size, d.free, d.err
}

func (d *disk) take(n int64) {
	d.mu.Lock()
	d.free -= n
	d.mu.Unlock()
}

func store(limit int64, d *disk, floor func(int64) int64) *Store {
	return &Store{ledger: newLedger(limit, floor, d.statfs)}
}

// TestLedger: whatever is reserved, grown, written, committed, kept and freed,
// the promises never pass the cap, and free space never falls below the floor.
func TestLedger(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		const limit, floor = 100 * mib, 10 * mib
		d := &disk{size: 1000 * mib, free: rapid.Int64Range(20*mib, 200*mib).Draw(rt, "free")}
		s := store(limit, d, func(int64) int64 { return floor })
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // who would have to wait is refused
		var rs []*Reservation
		var used []int64
		size := rapid.Int64Range(0, 30*mib)
		pick := func(rt *rapid.T) int {
			if len(rs) == 0 {
				rt.Skip("no reservation")
			}
			return rapid.IntRange(0, len(rs)-1).Draw(rt, "which")
		}
		drop := func(i int) { rs = append(rs[:i], rs[i+1:]...) }
		rt.Repeat(map[string]func(*rapid.T){
			"reserve": func(rt *rapid.T) {
				if r, err := s.Reserve(ctx, size.Draw(rt, "n")); err == nil {
					rs = append(rs, r)
				} else if !errors.Is(err, ErrNoSpace) && !errors.Is(err, context.Canceled) {
					rt.Fatal(err)
				}
			},
			"grow": func(rt *rapid.T) { _ = rs[pick(rt)].Grow(ctx, size.Draw(rt, "n")) },
			"write": func(rt *rapid.T) {
				r := rs[pick(rt)]
				n := rapid.Int64Range(0, r.room()).Draw(rt, "n")
				d.take(n)
				r.wrote(n)
			},
			"commit": func(rt *rapid.T) {
				i := pick(rt)
				d.take(need(rs[i].written) - rs[i].written)
				used = append(used, need(rs[i].written))
				rs[i].end(used[len(used)-1])
				drop(i)
			},
			"release": func(rt *rapid.T) {
				i := pick(rt)
				d.take(-rs[i].written)
				rs[i].Release()
				rs[i].Release()
				drop(i)
			},
			"evict": func(rt *rapid.T) {
				if len(used) == 0 {
					rt.Skip("nothing used")
				}
				d.take(-used[0])
				s.ledger.addUsed(-used[0], false)
				used = used[1:]
			},
			"": func(rt *rapid.T) {
				l := s.ledger
				if l.used+l.reserved+l.slackLocked(0) > limit || l.used < 0 || l.reserved < 0 || l.written < 0 || l.written > l.reserved {
					rt.Fatalf("used %d, reserved %d, written %d, limit %d", l.used, l.reserved, l.written, limit)
				}
				if left := d.free - (l.reserved - l.written); left < floor {
					rt.Fatalf("free %d once all is written, floor %d", left, floor)
				}
			},
		})
		for _, r := range rs {
			r.Release()
		}
		if s.ledger.reserved != 0 || s.ledger.written != 0 {
			rt.Fatalf("reserved %d, written %d at the end", s.ledger.reserved, s.ledger.written)
		}
	})
}

func TestReserveWaitsForTheEvictor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := store(100*mib, &disk{size: 1 << 40, free: 1 << 40}, nil)
		s.AddUsed(94 * mib) // over the high watermark
		<-s.Pressure()
		go func() {
			<-s.Pressure()
			<-time.After(100 * time.Millisecond)                // of the bubble's clock: an evictor at work
			if want := s.Wanted(); want != 29*mib+folderShare { // 94 and 19 and the slack of 11, down to 95
				t.Errorf("wanted %d", want)
			}
			s.AddUsed(-29 * mib)
		}()
		start := time.Now()
		r, err := s.Reserve(t.Context(), 19*mib)
		if err != nil || time.Since(start) != 100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		r.Release()
	})
}

func TestReserveIsInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := store(100*mib, &disk{size: 1 << 40, free: 1 << 40}, nil)
		s.AddUsed(60 * mib)
		reserve(t, s, 1*mib).Release() // there is room for a small one
		var mu sync.Mutex
		var order []int64
		var wg sync.WaitGroup
		for _, n := range []int64{50 * mib, 1 * mib} {
			wg.Go(func() {
				r, err := s.Reserve(t.Context(), n)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, n)
				mu.Unlock()
				r.Release()
			})
			synctest.Wait()
		}
		if len(order) != 0 {
			t.Errorf("overtaken: %v", order)
		}
		s.AddUsed(-60 * mib)
		wg.Wait()
		if len(order) != 2 {
			t.Errorf("granted: %v", order)
		}
	})
}

// What is promised and not written yet is free no more.
func TestPromisedIsNotFree(t *testing.T) {
	t.Parallel()
	s := store(0, &disk{size: 1000 * mib, free: 100 * mib}, func(int64) int64 { return 10 * mib })
	defer reserve(t, s, 80*mib).Release()
	now, cancel := context.WithCancel(t.Context())
	cancel() // who would have to wait is refused
	if r, err := s.Reserve(now, 20*mib); err == nil {
		r.Release()
		t.Error("promised twice")
	}
}

func TestReserveGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{size: 1000 * mib, free: 1000 * mib}
		s := store(100*mib, d, func(size int64) int64 { return size / 10 })
		s.AddUsed(95 * mib)
		start := time.Now()
		took := func(err error, want error, after time.Duration) {
			t.Helper()
			if got := time.Since(start); !errors.Is(err, want) || got != after {
				t.Errorf("%v after %v, want %v after %v", err, got, want, after)
			}
			start = time.Now()
		}
		_, err := s.Reserve(t.Context(), 99*mib)
		took(err, ErrNoSpace, 0) // it could never fit beside the slack
		if !errors.Is(err, ErrDisk) {
			t.Error("ErrNoSpace is no ErrDisk")
		}
		_, err = s.Reserve(t.Context(), 10*mib)
		took(err, ErrNoSpace, roomPatience)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = s.Reserve(ctx, 10*mib)
		took(err, context.DeadlineExceeded, 50*time.Millisecond)

		s.AddUsed(-95 * mib)
		d.take(895 * mib) // others fill the disk: 105 MiB left, 100 to stay free
		_, err = s.Reserve(t.Context(), 10*mib)
		took(err, ErrNoSpace, roomPatience)
		if want := s.Wanted(); want != 0 {
			t.Errorf("wanted %d with nobody waiting and the floor kept", want)
		}
		d.take(20 * mib)
		if want := s.Wanted(); want != 15*mib {
			t.Errorf("wanted %d with the floor broken by 15 MiB", want)
		}
		d.mu.Lock()
		d.err = syscall.EIO
		d.mu.Unlock()
		_, err = s.Reserve(t.Context(), 1)
		took(err, syscall.EIO, 0)
		if !errors.Is(err, ErrDisk) {
			t.Errorf("%v is no ErrDisk", err)
		}
	})
}

// TestSlack: what the file system may count twice stays free below the cap; it
// is no more than the largest file that was ever let in, and what was refused
// does not count.
func TestSlack(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // who would have to wait is refused
	const limit = 64 * mib
	folders := foldersFor(limit)
	s := store(limit, &disk{size: 1 << 40, free: 1 << 40}, nil)
	for _, c := range []struct{ content, slack int64 }{
		{64<<10 - folderShare, folders + 64<<10 + 64<<10},
		{3*mib - folderShare, folders + mib + 3*mib}, // one step of Sync, one file of the flusher
		{limit, folders + mib + 3*mib},
		{20 * mib, folders + mib + 8*mib}, // the flusher takes 8 MiB at a time
		{4096, folders + mib + 8*mib},     // it may still be at the large one
	} {
		r, err := s.Reserve(ctx, c.content)
		if (err != nil) != (c.content == limit) {
			t.Fatalf("%d bytes: %v", c.content, err)
		}
		if err == nil {
			defer r.Release()
		}
		if got := s.ledger.slackLocked(0); got != c.slack {
			t.Errorf("slack %d after %d bytes, want %d", got, c.content, c.slack)
		}
	}
	s.AddUsed(limit - s.ledger.reserved - s.ledger.slackLocked(0))
	if _, err := s.Reserve(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a reservation that reaches into the slack: %v", err)
	}
	if want := s.Wanted(); want != limit-highFor(limit) {
		t.Errorf("wanted %d at the edge of the slack, the watermark is %d below it", want, limit-highFor(limit))
	}
}

// Somebody else frees the disk and tells nobody: the last look sees it.
func TestReserveLooksOnceMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{size: 1000 * mib}
		s := store(0, d, nil)
		go func() {
			<-time.After(roomPatience / 2) // of the bubble's clock
			d.take(-100 * mib)
		}()
		r, err := s.Reserve(t.Context(), 10*mib)
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
	})
}

// What is written between the file system's answer and its use is not spent twice.
func TestWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	const floor = 10 * mib
	d, meanwhile := &disk{size: 1000 * mib, free: 40 * mib}, func() {}
	s := &Store{ledger: newLedger(0, func(int64) int64 { return floor }, func() (size, free int64, err error) {
		size, free, err = d.statfs()
		meanwhile()
		return size, free, err
	})}
	first := reserve(t, s, 20*mib)
	meanwhile = func() {
		d.take(20 * mib)
		first.wrote(20 * mib)
		meanwhile = func() {}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // who would have to wait is refused
	if r, err := s.Reserve(ctx, 15*mib); err == nil {
		t.Errorf("15 MiB were promised with %d free, of which %d are to stay", d.free, int64(floor))
		r.Release()
	}
	first.Release()
}

func TestHighWatermark(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ limit, margin int64 }{
		{100 << 30, 1 << 30},      // 1 %
		{4 << 30, 64 * mib},       // 64 MiB
		{1 << 30, (1 << 30) / 20}, // 5 %
	} {
		if got := c.limit - highFor(c.limit); got != c.margin {
			t.Errorf("limit %d: margin %d, want %d", c.limit, got, c.margin)
		}
	}
}

func TestReleaseDuringGrow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := store(100*mib, &disk{size: 1 << 40, free: 1 << 40}, nil)
		r := reserve(t, s, 60*mib)
		other := reserve(t, s, 20*mib)
		go func() { _ = r.Grow(t.Context(), 20*mib) }()
		synctest.Wait()
		r.Release()
		synctest.Wait()
		if s.ledger.reserved != other.reserved {
			t.Errorf("reserved %d, want %d", s.ledger.reserved, other.reserved)
		}
		other.Release()
	})
}
