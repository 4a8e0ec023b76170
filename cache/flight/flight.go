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
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Flight is the state of one growing piece of content. It goes through
//
//	waiting -> open -> done
//	       \       \-> failed
//	        \--------> failed
//
// and is safe for concurrent use. One goroutine writes (Open, Done, Fail, Reject,
// Retire, and in the end Leave), any number add to it and read.
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
	parts   map[*Reader]chan struct{} // those of parts that wait, each for its own bytes
	asked   chan struct{}
	whole   bool        // somebody has asked for all of it
	retired bool        // nobody joins any more
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
	return &Flight{size: -1, left: left, over: over, readers: map[*Reader]struct{}{}, parts: map[*Reader]chan struct{}{}, asked: make(chan struct{}, 1)}
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
			for r := range f.readers { // whose range turns out to be all of it
				f.whole = f.whole || f.wholeLocked(r)
			}
		}
	})
}

// A reader that has caught up costs a system call or two for each wake-up, so a
// hundred of them at the head of a fast fill would eat the processor for pieces
// of a few kilobytes, while others still wait for their first byte. Progress
// therefore wakes them at most once in a while that grows with their number;
// whoever is not waiting sees it at once.
const (
	paceStep = 200 * time.Microsecond // for each reader
	paceMost = 100 * time.Millisecond
)

// Add says that bytes [off, end) can be read.
func (f *Flight) Add(off, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.have.Bytes()
	f.have.Add(off, end)
	f.wakeParts(func(r *Reader) bool { return f.readable(r, r.at) > r.at })
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
	f.wakeParts(func(*Reader) bool { return true })
}

// wakeParts wakes readers of parts, each of which waits for bytes of its own; the
// lock is held.
func (f *Flight) wakeParts(which func(*Reader) bool) {
	for r, woken := range f.parts {
		if which(r) {
			close(woken)
			delete(f.parts, r)
		}
	}
}

// wakes gives what is closed when it is worth a look again: for a reader of a part
// when its bytes are there. r is nil for who waits for no bytes; the lock is held.
func (f *Flight) wakes(r *Reader) <-chan struct{} {
	if r != nil && len(r.asks) > 0 {
		if f.parts[r] == nil {
			f.parts[r] = make(chan struct{})
		}
		return f.parts[r]
	}
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

// await blocks until ready, which is called with the lock held, is true.
func (f *Flight) await(ctx context.Context, r *Reader, ready func() bool) error {
	for {
		f.mu.Lock()
		if ready() {
			f.mu.Unlock()
			return nil
		}
		changed := f.wakes(r)
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
	if werr := f.await(ctx, nil, func() bool {
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

// Snapshot is a flight at one moment.
type Snapshot struct {
	Size    int64 // -1: not known
	Bytes   int64 // that are there
	Extents int   // ranges that these are
	Readers int
	Whole   bool // somebody has asked for all of it
}

// Snapshot gives what there is to be seen, without waiting.
func (f *Flight) Snapshot() Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Snapshot{f.size, f.have.Bytes(), f.have.Len(), len(f.readers), f.whole}
}

// Have gives a copy of what is there.
func (f *Flight) Have() Extents {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have.Clone()
}

// Bytes tells how much is there.
func (f *Flight) Bytes() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have.Bytes()
}

// From tells how far the content goes on from off, as Extents.End.
func (f *Flight) From(off int64) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have.End(off)
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
