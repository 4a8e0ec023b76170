package lazy_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// leavings are after how many bytes who asked for n of them leaves.
func leavings(n int64) []int64 { return []int64{0, 1, n / 2, n - 1} }

// TestRangeLeaves is FAULTS row 1 for ranges: who asked for one leaves at its first byte, after that, in the middle, and before its last
// one, while the rest is still on its way. It comes all the same, by the one request; whoever waits for it too, or comes later, has it, and
// upstream is not asked for it again.
func TestRangeLeaves(t *testing.T) {
	for name, s := range map[string]span{"one piece": {4*mib + 100, 5*mib - 100}, "eight pieces": {2 * mib, 10 * mib}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			for _, n := range leavings(s.end - s.off) {
				for others := range 3 {
					r.leaves(r.blob(12*mib), s, n, others)
				}
			}
			r.metric(0, "cistern_requests_total", `outcome="error"`)
			r.logged(`"client_left":true`, 12)
		})
	}
}

// leaves has somebody leave after n bytes of s, beside others who stay.
func (r *rig) leaves(b *blob, s span, n int64, others int) {
	r.t.Helper()
	h := r.hold(b, func(a *ask) int64 { return within(a, s.off+n) })
	leaver, err := r.ask(b, closedSpec(s), s)
	r.must(err)
	h.stand(1)
	r.must(leaver.read(n))
	stay := make(chan error, others)
	for range others {
		go func() { stay <- r.closed(b, s) }()
	}
	r.metric(float64(others+1), "cistern_flight_readers")
	leaver.close()
	r.metric(float64(others), "cistern_flight_readers")
	h.open()
	for range others {
		r.must(<-stay)
	}
	want := touched(s)
	r.until(func() error { // also if nobody waits for it
		if sent := r.sent(b); sent < want.end-want.off {
			return fmt.Errorf("%d bytes of %d have come:%s", sent, want.end-want.off, r.list(b))
		}
		return nil
	})
	r.silently(b, func() { r.must(r.closed(b, s)) })
	r.fetched(b, want)
	if left := h.leaves.Load(); left > 0 {
		r.t.Errorf("leaving after %d bytes: %d requests for the range were given up", n, left)
	}
}

// TestLeavesStreams is FAULTS row 1 beside parallel streams: readers of ranges leave while a fill of the whole is under way by several of them.
// No stream ends for that, and none of the bytes is fetched twice.
func TestLeavesStreams(t *testing.T) {
	t.Parallel()
	const parts = 4
	r := start(t, 1<<30, "max_streams: 8")
	b := r.gaps(7, parts)
	h := r.hold(b, func(*ask) int64 { return mib })
	before := len(r.asked(b))
	whole := make(chan error, 2)
	for range cap(whole) {
		go func() { _, err := r.whole(b); whole <- err }()
	}
	h.stand(8)
	streams := r.asked(b)[before:]
	for i, n := range leavings(mib + 1) {
		off := streams[i].off
		s := span{off, off + mib + 1} // as far as it has come, and one more
		leaver, err := r.ask(b, closedSpec(s), s)
		r.must(err)
		r.must(leaver.read(n))
		leaver.close()
	}
	r.metric(2, "cistern_flight_readers")
	h.open()
	for range cap(whole) {
		r.must(<-whole)
	}
	r.silently(b, func() { r.hit(b) })
	r.once(b)
	if left := h.leaves.Load(); left > 0 {
		t.Errorf("%d streams were given up:%s", left, r.list(b))
	}
}

// once sees that the daemon has taken each byte of this blob, the only one, from upstream once.
func (r *rig) once(b *blob) {
	r.t.Helper()
	if took := r.daemon.Metric(r.t, "cistern_upstream_received_bytes_total"); took != float64(b.size()) {
		r.t.Errorf("%.0f bytes were taken from upstream of a blob of %d:%s", took, b.size(), r.list(b))
	}
}

// TestSlowReaders is FAULTS rows 2 and 3 for ranges: who asked for a closed range, for an open one and for the whole never reads, or reads
// 64 KiB a second. Others have all that they asked for, parts and the whole, and the blob is verified and a hit, while those still stand
// where they did; and in the end they get theirs.
func TestSlowReaders(t *testing.T) {
	for name, ticks := range map[string]time.Duration{"never": time.Hour, "64 KiB a second": time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30, "max_streams: 4")
			b := r.gaps(3, 11)
			free := make(chan struct{})
			var done sync.WaitGroup
			for spec, want := range map[string]span{
				"3000000-40000000": {3_000_000, 40_000_001}, "9000000-": {9_000_000, b.size()}, "": {0, b.size()},
			} {
				a, err := r.ask(b, spec, want)
				r.must(err)
				done.Go(func() {
					defer a.close()
					if err := a.slowly(ticks, free); err != nil {
						t.Errorf("range %q: %v", spec, err)
					}
				})
			}
			r.metric(3, "cistern_flight_readers")
			r.parallel(40, 8, func(i int) error {
				if i%10 == 9 {
					_, err := r.whole(b)
					return err
				}
				off := int64(i) * mib
				return r.closed(b, span{off + 17, off + 3*mib})
			})
			r.hit(b)
			r.metric(3, "cistern_flight_readers")
			close(free)
			done.Wait()
			r.metric(0, "cistern_flight_readers")
			r.once(b)
		})
	}
}

// slowly reads 64 KiB at each tick, and all that is left once it is free to.
func (a *reply) slowly(tick time.Duration, free <-chan struct{}) error {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			if err := a.read(64 * kib); err != nil {
				return err
			}
		case <-free:
			return a.read(int64(len(a.want)))
		}
	}
}

// TestCrowd is FAULTS row 5 for ranges: 100 clients of one cold blob, one half after ranges of it, scattered and over each other, the other
// after all of it; of each half 25 die at some byte. The others have what they asked for, and each byte was taken from upstream once.
func TestCrowd(t *testing.T) {
	for name, lead := range map[string]bool{"a range first": false, "the whole first": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			b := r.blob(48*mib + 4321)
			h := r.hold(b, func(*ask) int64 { return 0 })
			errs := make(chan error, 100)
			join := func(do func() error) { go func() { errs <- do() }() }
			all := crowd(r, b)
			if lead {
				all[0], all[1] = all[1], all[0]
			}
			join(all[0])
			h.stand(1)
			for _, do := range all[1:] {
				join(do)
			}
			r.metric(100, "cistern_flight_readers") // all are there, and none has a byte
			h.open()
			for range all {
				r.must(<-errs)
			}
			r.hit(b)
			r.once(b)
			// A stream that leaves its end to another, because somebody waits for that, is cut with what lies in its buffers.
			r.about(b, 4*mib)
		})
	}
}

// crowd is 100 clients, the first one after a range.
func crowd(r *rig, b *blob) (all []func() error) {
	rng := rand.New(rand.NewPCG(5, 0))
	for i := range 100 {
		spec, s := "", span{0, b.size()}
		if i%2 == 0 {
			off := rng.Int64N(b.size())
			s = span{off, min(b.size(), off+1+rng.Int64N(8*mib))}
			spec = closedSpec(s)
		}
		n := s.end - s.off
		if i%4 > 1 {
			n = rng.Int64N(n)
		}
		all = append(all, func() error { return r.begin(b, spec, s, n) })
	}
	return all
}
