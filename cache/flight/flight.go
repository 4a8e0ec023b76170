// Package flight is one fill and all who read it: a blob that grows where it is
// asked for, while any number of readers follow it, each from its own offset and
// at its own pace.
//
// It keeps no bytes and opens no files: a Flight says how far the content
// goes and whether it can be believed, and its readers wait for that. Who
// fetches, where the bytes lie and what happens when the last reader leaves is
// for package cache to say. It is not a cache of results either: a finished
// flight is forgotten, and what it brought is found on disk.
package flight

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Flight is the state of one growing piece of content. It goes through
//
//	waiting -> open -> done
//	       \       \-> failed
//	        \--------> failed
//
// and is safe for concurrent use. One goroutine writes (Open, Advance, Done,
// Fail, Reject, and in the end Leave), any number read.
//
// The last byte is held back until Done, so that no reader can complete the
// content before its digest was found right (P 4.71).
type Flight struct {
	mu      sync.Mutex
	changed chan struct{} // closed at the next change; nil while nobody waits
	state   state
	size    int64   // -1: not known yet
	have    Extents // the bytes that are there
	err     error   // why it failed
	opened  bool    // the source has answered
	readers map[*Reader]struct{}
	asked   chan struct{}
	turns   uint64      // of readers that had to wait, so far
	through bool        // the writer has left
	left    func()      // called when the last reader has left
	over    func()      // called when the writer has, too
	woken   time.Time   // when those who wait were woken last
	later   *time.Timer // wakes them; nil: not set
}

type state uint8

const (
	waiting state = iota
	open
	done
	failed
	rejected
)

// New makes a flight that waits for its source to answer. If left is not nil
// it is called, without a lock held, each time the number of readers falls to
// zero. If over is not nil it is called so once, when the writer has left and no
// reader is there: nobody joins any more, and what the flight brought may go.
func New(left, over func()) *Flight {
	return &Flight{size: -1, left: left, over: over, readers: map[*Reader]struct{}{}, asked: make(chan struct{}, 1)}
}

// Leave ends the writer's part, in the flight and in what it brought.
func (f *Flight) Leave() {
	f.mu.Lock()
	over := len(f.readers) == 0 && !f.through
	f.through = true
	f.mu.Unlock()
	if over && f.over != nil {
		f.over()
	}
}

// Open says that the source has answered: readers may start. size is the
// content's size in bytes, or -1 while it is unknown.
func (f *Flight) Open(size int64) {
	f.change(func() {
		if f.state == waiting {
			f.state, f.size, f.opened = open, size, true
		}
	})
}

// A reader that has caught up costs a system call or two for each wake-up, so a
// hundred of them at the head of a fast fill would eat the processor for pieces
// of a few kilobytes, while others still wait for their first byte. Progress
// therefore wakes them at most once in a while that grows with their number;
// whoever is not waiting sees it at once.
const (
	paceStep = 100 * time.Microsecond // for each reader
	paceMost = 10 * time.Millisecond
)

// Add says that bytes [off, end) can be read.
func (f *Flight) Add(off, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.have.Bytes()
	f.have.Add(off, end)
	if f.have.Bytes() == before || f.changed == nil || f.later != nil {
		return
	}
	pace := min(paceMost, time.Duration(len(f.readers))*paceStep)
	if early := pace - time.Since(f.woken); early > 0 {
		f.later = time.AfterFunc(early, func() { f.change(func() {}) })
		return
	}
	f.wakeLocked()
}

// Done says that the content is whole and that its digest matched. It releases
// the last byte; an unknown size becomes known.
func (f *Flight) Done() {
	f.change(func() {
		if f.state == waiting || f.state == open {
			f.state, f.size = done, f.have.End(0)
		}
	})
}

// Fail ends the flight: what is there may still be read, then readers get err.
// It does nothing to a flight that has ended before.
func (f *Flight) Fail(err error) { f.end(failed, err) }

// Reject ends the flight because its bytes are wrong: no reader gets another
// one, all get err.
func (f *Flight) Reject(err error) { f.end(rejected, err) }

func (f *Flight) end(s state, err error) {
	if err == nil || errors.Is(err, io.EOF) {
		err = early{err}
	}
	f.change(func() {
		if f.state == waiting || f.state == open {
			f.state, f.err = s, err
		}
	})
}

// early is for a cause that whoever reads would take for the content's end: it
// is all that the cause is, but an io.ErrUnexpectedEOF instead of an io.EOF.
type early struct{ cause error }

func (e early) Error() string { return fmt.Sprintf("the fill ended early: %v", e.cause) }

// Is implements what errors.Is asks for.
func (e early) Is(target error) bool {
	return target == io.ErrUnexpectedEOF || target != io.EOF && errors.Is(e.cause, target)
}

// As implements what errors.As asks for.
func (e early) As(target any) bool { return errors.As(e.cause, target) }

// change applies a change of state and wakes whoever waits, if anybody does:
// a fill that is ahead of its readers must not make garbage at every step.
func (f *Flight) change(apply func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	apply()
	f.wakeLocked()
}

// wakeLocked wakes whoever waits.
func (f *Flight) wakeLocked() {
	if f.later != nil {
		f.later.Stop()
		f.later = nil
	}
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
		f.woken = time.Now()
	}
}

// await blocks until ready, which is called with the lock held, is true.
func (f *Flight) await(ctx context.Context, ready func() bool) error {
	for {
		f.mu.Lock()
		if ready() {
			f.mu.Unlock()
			return nil
		}
		if f.changed == nil {
			f.changed = make(chan struct{})
		}
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Size waits until the source has answered and gives the content's size, -1 if
// the source did not say it. A flight that failed before it opened gives its
// error.
func (f *Flight) Size(ctx context.Context) (int64, error) {
	var size int64
	var err error
	if werr := f.await(ctx, func() bool {
		size = f.size
		if f.state >= failed && !f.opened {
			err = f.err
		}
		return f.state != waiting
	}); werr != nil {
		return -1, werr
	}
	return size, err
}

// Have gives a copy of what is there.
func (f *Flight) Have() Extents {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have.Clone()
}

// From tells how far the content goes on from off, as Extents.End.
func (f *Flight) From(off int64) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have.End(off)
}

// Asked receives when a reader begins to wait for bytes that are not there; then
// ask Wants. Capacity 1.
func (f *Flight) Asked() <-chan struct{} { return f.asked }

// Want is what one reader is after: bytes [Off, End); End < 0 is the content's end.
type Want struct{ Off, End int64 }

// Wants gives what readers wait for now, as far as it is not there, those first
// that have waited longest.
func (f *Flight) Wants() []Want {
	f.mu.Lock()
	defer f.mu.Unlock()
	var waiting []*Reader
	for r := range f.readers {
		if r.turn > 0 && f.have.End(r.at) == r.at {
			waiting = append(waiting, r)
		}
	}
	slices.SortFunc(waiting, func(a, b *Reader) int { return cmp.Compare(a.turn, b.turn) })
	wants := make([]Want, len(waiting))
	for i, r := range waiting {
		wants[i] = Want{r.at, r.to}
	}
	return wants
}

// Verified tells whether the content is whole and right.
func (f *Flight) Verified() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state == done
}

// Ended tells whether nothing more will come: it is done, or has failed.
func (f *Flight) Ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state >= done
}

// Readers counts those that have not left.
func (f *Flight) Readers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.readers)
}

// Reader follows a flight. Its methods are for one goroutine at a time.
type Reader struct {
	f    *Flight
	left bool

	// guarded by f.mu
	from, to int64  // what it reads; to < 0: to the end
	at       int64  // where it waits
	turn     uint64 // since when; 0: it does not wait
}

// Join adds a reader of the whole, which must be closed; nil if the flight is over.
func (f *Flight) Join() *Reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.through && len(f.readers) == 0 {
		return nil
	}
	r := &Reader{f: f, to: -1}
	f.readers[r] = struct{}{}
	return r
}

// Ask says that the reader is after bytes [from, to) from now on; to < 0 is the
// content's end.
func (r *Reader) Ask(from, to int64) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.from, r.to = from, to
}

// Wait blocks until there is a byte to read at off, and tells how far bytes
// can be read from there. At the end of the content it gives io.EOF; failure
// is never an end of file. It returns early with the context's cause.
func (r *Reader) Wait(ctx context.Context, off int64) (end int64, err error) {
	f := r.f
	werr := f.await(ctx, func() bool {
		end = f.readable(r, off)
		switch {
		case f.state == rejected:
			err = f.err
		case off < end:
		case f.state == failed:
			err = f.err
		case f.state == done:
			err = io.EOF
		default:
			f.wait(r, off)
			return false
		}
		r.turn = 0
		return true
	})
	if werr != nil {
		f.mu.Lock()
		r.turn = 0
		f.mu.Unlock()
		return 0, werr
	}
	return end, err
}

// wait notes where a reader waits; the lock is held.
func (f *Flight) wait(r *Reader, off int64) {
	if r.turn > 0 {
		return
	}
	f.turns++
	r.at, r.turn = off, f.turns
	select {
	case f.asked <- struct{}{}:
	default:
	}
}

// readable is how far a reader may go from off; the lock is held.
func (f *Flight) readable(r *Reader, off int64) int64 {
	end := f.have.End(off)
	switch {
	case f.state == waiting:
		return 0
	case f.state == done:
		return end
	case f.size < 0:
		return end - 1 // any byte may be the last
	case r.from == 0:
		return min(end, f.size-1)
	}
	return min(end, f.size)
}

// Close leaves the flight. It may be called more than once.
func (r *Reader) Close() {
	if r.left {
		return
	}
	r.left = true
	r.f.mu.Lock()
	delete(r.f.readers, r)
	last := len(r.f.readers) == 0
	over := last && r.f.through
	r.f.mu.Unlock()
	if last && r.f.left != nil {
		r.f.left()
	}
	if over && r.f.over != nil {
		r.f.over()
	}
}
