package lazy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// refuses is an answer with a status.
func refuses(status int) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ *ask) { http.Error(w, "not now", status) }
}

// A spoilt byte of a blob is one with which answers go wrong.
type spoilt struct {
	had   atomic.Int64  // answers that have
	ready chan struct{} // closed when some have; the honest ones wait for it
}

// spoil has the next n answers with the byte at off go wrong, all of them if n < 0. The honest ones, with other bytes, wait for so many of these.
func (r *rig) spoil(b *blob, off, n, first int64, wrong fault) *spoilt {
	s := &spoilt{ready: make(chan struct{})}
	r.keep(b, func(w http.ResponseWriter, req *http.Request, a *ask) {
		if within(a, off) != nowhere {
			i := s.had.Add(1)
			if i == first {
				close(s.ready)
			}
			if n < 0 || i <= n {
				wrong(w, req, a)
				return
			}
		}
		select {
		case <-s.ready:
		case <-r.ended:
		}
		serve(w, req, a)
	})
	return s
}

// budget is how often upstream is asked for the bytes of one stream, none of which come: it is opened five times, each with three tries.
const budget = 15

// TestRangeRefused is FAULTS row 20 for parts and for parallel streams: upstream answers a range with 500, 502, 503 or 504; once, ten times, for
// ever. Once: nobody sees it. Else who waits for these bytes has them, or is cut, within the budget, and never has an end as if it were whole; all that
// others wait for, and other streams bring, comes all the same, while the breaker opens and closes; and when upstream is well, what is on
// disk is gone on with.
func TestRangeRefused(t *testing.T) {
	for _, status := range []int{500, 502, 503, 504} {
		for _, times := range []int64{1, 10, -1} {
			name := fmt.Sprintf("%d, %d times, ", status, times)
			t.Run(name+"a stream", func(t *testing.T) {
				t.Parallel()
				r := start(t, 1<<30, "max_streams: 8")
				b := r.gaps(15, 4)
				r.suffers(b, pieces(15, 1), times, refuses(status), func() error {
					_, err := r.whole(b)
					return err
				})
				r.silently(b, func() { r.hit(b) })
				r.once(b)
			})
			t.Run(name+"a piece", func(t *testing.T) {
				t.Parallel()
				r := start(t, 1<<30)
				b := r.blob(40 * mib)
				r.must(r.closed(b, pieces(30, 1)))
				r.suffers(b, pieces(15, 1), times, refuses(status), func() error {
					other := make(chan error)
					go func() { other <- r.closed(b, pieces(20, 1)) }()
					err := r.closed(b, span{15*mib + 5, 16*mib - 5})
					r.must(<-other)
					return err
				})
			})
		}
	}
}

// suffers has upstream go wrong with the bytes of s, which get needs among others.
func (r *rig) suffers(b *blob, s span, times int64, wrong fault, get func() error) {
	r.t.Helper()
	first := int64(4) // by then the breaker has opened
	if times > 0 {
		first = min(first, times)
	}
	bad := r.spoil(b, s.off, times, first, wrong)
	err := get()
	had := bad.had.Load()
	if times == 1 {
		r.must(err)
		if had != 2 {
			r.t.Errorf("upstream was asked %d times for what it has refused once:%s", had, r.list(b))
		}
		return
	}
	if errors.Is(err, errWrong) || err == nil && (times < 0 || had <= times) || had > 2*budget { // another stream may have taken over
		r.t.Errorf("%v; upstream was asked %d times for what it refuses:%s", err, had, r.list(b))
	}
	if times < 0 {
		r.keep(b, nil)
	}
	before := len(r.asked(b))
	r.finally(get)
	for _, a := range r.asked(b)[before:] {
		if within(a, s.off) == nowhere {
			r.t.Errorf("what had come was asked for again:%s", r.list(b))
		}
	}
}

// TestRecovery is row 20, the end of an outage: readers of the whole and of parts wait for many streams, upstream answers none of them, and then is
// well. One request finds that out, and the others wait for its answer; after that all have what they wait for.
func TestRecovery(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30, "max_streams: 8")
	b := r.gaps(7, 4)
	h := r.hold(b, func(*ask) int64 { return beforeHeader })
	var well atomic.Bool
	var had atomic.Int64
	r.keep(b, func(w http.ResponseWriter, req *http.Request, a *ask) {
		if !well.Load() {
			had.Add(1)
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		h.serve(w, req, a)
	})
	errs := make(chan error, 20)
	for i := range cap(errs) {
		go func() { errs <- r.closed(b, span{int64(i) * 2 * mib, b.size()}) }()
	}
	r.metric(0, "cistern_upstream_up")
	before := had.Load()
	r.until(func() error { // all that were under way have their answers by now
		if had.Load() == before {
			return errors.New("no probe")
		}
		return nil
	})
	well.Store(true)
	h.stand(1)
	if _, err := r.whole(r.blob(300_000)); err == nil {
		t.Error("somebody was let through beside the probe")
	} // it has waited for the probe's answer as long as anybody does
	if n := h.there.Load(); n != 1 {
		t.Errorf("%d requests have found out that upstream is well:%s", n, r.list(b))
	}
	h.open()
	for range cap(errs) {
		r.must(<-errs)
	}
	r.hit(b)
	r.once(b)
}

// TestRangeRefusedForEver is row 20 where other streams take their time: that they go on is no reason to ask for ever for what upstream
// refuses, nor to have its readers wait. They are cut while the others are still at it.
func TestRangeRefusedForEver(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30, "max_streams: 8")
	b := r.gaps(7, 4)
	var had atomic.Int64
	r.keep(b, func(w http.ResponseWriter, req *http.Request, a *ask) {
		if within(a, 5*mib) != nowhere {
			had.Add(1)
			http.Error(w, "never", http.StatusServiceUnavailable)
			return
		}
		serve(&trickle{w, req}, req, a)
	})
	_, err := r.whole(b)
	if err == nil || errors.Is(err, errWrong) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who waits for what upstream refuses: %v", err)
	}
	if n := had.Load(); n > 5*budget {
		t.Errorf("upstream was asked %d times for what it refuses", n)
	}
	if sent := r.sent(b); sent > b.size()-8*mib {
		t.Errorf("who waited for what is refused did so until all else had come: %d bytes", sent)
	}
}

// trickle is an answer of 80 KB a second.
type trickle struct {
	http.ResponseWriter
	req *http.Request
}

// Write implements io.Writer.
func (w *trickle) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-w.req.Context().Done():
			return n, w.req.Context().Err()
		}
		m := 0
		m, err = w.ResponseWriter.Write(p[:min(len(p), 8*kib)])
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		n, p = n+m, p[m:]
	}
	return n, err
}
