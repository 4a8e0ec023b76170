package lazy_test

import (
	"syscall"
	"testing"
	"time"
)

// standstill is longer than any bound of one pull: connecting (5 s), a header (10 s), a stall (10 s), an opening (10 s), all
// that a stream may be silent for (20 s).
const standstill = 23 * time.Second

// TestHalt is FAULTS row 45 for parts and parallel streams: the process stands still, as one that was stopped or whose machine was moved, while upstream owes
// it pieces, windows and the parts of a whole, headers and bodies, and goes on when each timer of these has run out. Upstream has answered meanwhile: who
// waits for them has them, nothing was asked for more than twice, upstream is not held for down, and all is kept.
func TestHalt(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30, "max_streams: 8")
	whole := r.gaps(7, 4)
	var under []*blob
	var holds []*hold
	errs := make(chan error)
	asked := 0
	// begin has readers ask for bytes of a blob, for which n answers stand still.
	begin := func(b *blob, at, n int64, readers ...func() error) {
		h := r.hold(b, func(*ask) int64 { return at })
		for _, read := range readers {
			go func() { errs <- read() }()
		}
		h.stand(n)
		asked += len(readers)
		under, holds = append(under, b), append(holds, h)
	}
	for _, at := range []int64{beforeHeader, 0, 300_000} {
		cold, known := r.blob(20*mib), r.blob(30*mib)
		r.must(r.closed(known, pieces(0, 1)))
		begin(cold, at, 1, func() error { return r.closed(cold, span{7*mib + 5, 8*mib - 5}) })
		begin(known, at, 4,
			func() error { return r.closed(known, pieces(3, 1)) },
			func() error { return r.closed(known, pieces(9, 3)) },
			func() error { return r.closed(known, span{15 * mib, 15*mib + 10}) },
			func() error { return r.from(known, 20*mib+100, 3*mib) })
	}
	begin(whole, 600_000, 8, func() error { _, err := r.whole(whole); return err })
	r.must(r.daemon.Signal(syscall.SIGSTOP))
	for _, h := range holds {
		h.open()
	}
	<-time.After(standstill)
	r.must(r.daemon.Signal(syscall.SIGCONT))
	for range asked {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if up := r.daemon.Metric(t, "cistern_upstream_up"); up != 1 {
		t.Errorf("upstream is held for down: %v", up)
	}
	for _, b := range under {
		if n := r.mostAsked(b); n > 2 {
			t.Errorf("upstream was asked %d times for the same:%s", n, r.list(b))
		}
		r.keep(b, nil)
		if _, err := r.whole(b); err != nil {
			t.Error(err)
		}
		r.silently(b, func() { r.hit(b) })
	}
}

// mostAsked is how often upstream was asked for the byte that it was asked for most often.
func (r *rig) mostAsked(b *blob) (most int) {
	r.t.Helper()
	all := r.asked(b)
	for _, a := range all {
		n := 0
		for _, other := range all {
			if within(other, a.off) != nowhere {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}
