// Package bandwidth shares out a limited number of bytes a second: the same to
// each who waits for some, and first to those whom somebody waits for.
//
// It moves no bytes and knows no fills: whoever is to read asks before, and reads
// what it was given. What the bytes are, and which limits they fall under, is for
// package cache to say.
package bandwidth

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// quantumLeast and quantumMost bound what is given at a time, which is a
	// hundredth of a second's bytes in between: less costs system calls, more
	// makes others wait.
	quantumLeast, quantumMost = 4 << 10, 256 << 10
	// burstOver is the part of a second whose bytes may come late and at once: a
	// timer that fires late, or a stream that did not read for a moment, costs none.
	burstOver = 10
	// othersTurn is how many times those whom somebody waits for are served until
	// one of the others is: a connection that is never read from is cut off.
	othersTurn = 16
)

// Limit is a number of bytes a second. It is safe for concurrent use.
type Limit struct {
	bucket  *rate.Limiter
	quantum int

	mu    sync.Mutex // guards all below
	queue []*Share   // those that wait
	time  int64      // of start-time fair queueing: the bytes that each has had who never stopped waiting
	turns int        // so far
	later *time.Timer
}

// New makes a limit of so many bytes a second. It gives nil, which limits nothing,
// for none.
func New(bytesPerSecond int64) *Limit {
	if bytesPerSecond <= 0 {
		return nil
	}
	quantum := int(min(max(bytesPerSecond/100, quantumLeast), quantumMost))
	burst := max(quantum, int(min(bytesPerSecond/burstOver, 1<<30)))
	return &Limit{bucket: rate.NewLimiter(rate.Limit(bytesPerSecond), burst), quantum: quantum}
}

// Full tells whether there are fewer bytes to give than are wanted. On nil it is
// false.
func (l *Limit) Full() bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) > 0 || l.bucket.Tokens() < float64(l.quantum)
}

// Share is a part of a limit. All shares that are in use are equal, however many
// wait for each. It is safe for concurrent use, and needs no closing.
type Share struct {
	l       *Limit
	awaited func() bool

	// guarded by l.mu
	waiting []*turn
	time    int64 // of its next turn
}

// turn is one that waits.
type turn struct {
	n    int           // bytes that it wants, and then those that it got
	come chan struct{} // closed when it got them
}

// Share makes one. awaited tells whether somebody waits for what it is used for; it
// is called often, and must not call back. On nil it gives nil.
func (l *Limit) Share(awaited func() bool) *Share {
	if l == nil {
		return nil
	}
	return &Share{l: l, awaited: awaited}
}

// Take waits for bytes, at least one and n at most, and tells how many it got. first
// puts it before others that wait for the same share. It fails with the context's
// cause only. On nil it gives n at once.
func (s *Share) Take(ctx context.Context, n int, first bool) (int, error) {
	if s == nil {
		return n, nil
	}
	t := s.enqueue(n, first)
	select {
	case <-t.come:
		return t.n, nil
	case <-ctx.Done():
		s.leave(t)
		return 0, fmt.Errorf("waiting for bandwidth: %w", context.Cause(ctx))
	}
}

// enqueue takes a place, and serves who can be served.
func (s *Share) enqueue(n int, first bool) *turn {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	t := &turn{n, make(chan struct{})}
	if len(s.waiting) == 0 {
		s.l.queue = append(s.l.queue, s)
	}
	at := len(s.waiting)
	if first {
		at = 0
	}
	s.waiting = slices.Insert(s.waiting, at, t)
	if s.l.later == nil {
		s.l.serve()
	}
	return t
}

// leave gives up waiting, if the turn has not come meanwhile.
func (s *Share) leave(t *turn) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if at := slices.Index(s.waiting, t); at >= 0 {
		s.drop(at)
	}
}

// drop takes one off those that wait; l.mu is held.
func (s *Share) drop(at int) {
	s.waiting = slices.Delete(s.waiting, at, at+1)
	if len(s.waiting) == 0 {
		at := slices.Index(s.l.queue, s)
		s.l.queue = slices.Delete(s.l.queue, at, at+1)
	}
}

// serve gives what there is to those whose turn it is, and comes again when there is
// more. Whose turn it is, is decided then and not before: who has just been served
// takes a moment to be back, and would else be passed over; mu is held.
func (l *Limit) serve() {
	for {
		s := l.pick()
		if s == nil {
			return
		}
		now, t := time.Now(), s.waiting[0]
		n := min(t.n, max(l.quantum, int(l.bucket.TokensAt(now)))) // what others have left, too
		r := l.bucket.ReserveN(now, n)
		if late := r.DelayFrom(now); late > 0 {
			r.CancelAt(now)
			l.later = time.AfterFunc(late, l.again)
			return
		}
		l.turns++
		l.time = max(l.time, s.time)
		s.time = l.time + int64(n)
		s.drop(0)
		t.n = n
		close(t.come)
	}
}

// again serves after a while.
func (l *Limit) again() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.later = nil
	l.serve()
}

// pick chooses whose turn it is, nil: nobody waits; mu is held.
func (l *Limit) pick() (best *Share) {
	awaited, bestFits := l.turns%othersTurn != 0, false
	for _, s := range l.queue {
		fits := s.awaited() == awaited
		if best == nil || fits && !bestFits || fits == bestFits && max(s.time, l.time) < max(best.time, l.time) {
			best, bestFits = s, fits
		}
	}
	return best
}
