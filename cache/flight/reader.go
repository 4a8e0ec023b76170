package flight

import (
	"cmp"
	"context"
	"io"
	"slices"
)

// Want is bytes [Off, End) that a reader is after; End < 0 is the content's end.
type Want struct{ Off, End int64 }

// Reader follows a flight. Its methods are for one goroutine at a time.
type Reader struct {
	f    *Flight
	left bool

	// guarded by f.mu
	asks []Want // what it is after, in the order in which it reads; nil: the whole
	next int    // which of them it reads, or is about to
	from int64  // where it began to read
	at   int64  // where it waits, or waited last
	turn uint64 // since when; 0: it does not wait
}

// Join adds a reader of what it names, or of the whole, which must be closed; nil
// if the flight is over.
func (f *Flight) Join(asks ...Want) *Reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.retired || f.through && len(f.readers) == 0 {
		return nil
	}
	r := &Reader{f: f, asks: asks}
	if len(asks) > 0 {
		r.from, r.at = asks[0].Off, asks[0].Off
	}
	f.whole = f.whole || f.wholeLocked(r)
	f.readers[r] = struct{}{}
	f.poke()
	return r
}

// Has tells whether all of what is named is there; of nothing it is not.
func (f *Flight) Has(asks ...Want) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range asks {
		if f.size < 0 || !f.have.Holds(w.Off, f.endOf(w)) {
			return false
		}
	}
	return len(asks) > 0
}

// Whole tells whether somebody has asked for all of it.
func (f *Flight) Whole() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.whole
}

// Retire ends the joining if nobody reads, and tells whether it did. The flight
// stays as it is: whoever holds it is its writer alone.
func (f *Flight) Retire() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retired = f.retired || len(f.readers) == 0
	return f.retired
}

// Begin says that the reader reads from off on.
func (r *Reader) Begin(off int64) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.from, r.at = off, off
	for i := range r.asks {
		if n := (r.next + i) % len(r.asks); r.asks[n].Off == off {
			r.next = n
			return
		}
	}
}

// Asks is what it has joined for, nil if that is the whole.
func (r *Reader) Asks() []Want { return r.asks }

// Wait blocks until there is a byte to read at off, and tells how far bytes
// can be read from there. At the end of the content it gives io.EOF; failure
// is never an end of file. It returns early with the context's cause.
func (r *Reader) Wait(ctx context.Context, off int64) (end int64, err error) {
	f := r.f
	werr := f.await(ctx, r, func() bool {
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
		delete(f.parts, r)
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
	if len(r.asks) > 0 { // whoever wants all of it waits for what comes anyway
		f.poke()
	}
}

// poke tells the writer to look at Wants; the lock is held.
func (f *Flight) poke() {
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

// Asked receives when a reader comes, or begins to wait for a part of the content;
// then ask Wants. Capacity 1.
func (f *Flight) Asked() <-chan struct{} { return f.asked }

// Wants gives what readers are after that is not there, as it is to be fetched:
// what somebody waits for, longest first, then what they will come to. whole tells
// whether somebody is, or ever was, after all of it; what those wait for is not
// among the wants.
func (f *Flight) Wants() (wants []Want, whole bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var parts []*Reader
	for r := range f.readers {
		if f.wholeLocked(r) {
			f.whole = true
		} else {
			parts = append(parts, r)
		}
	}
	slices.SortFunc(parts, func(a, b *Reader) int {
		return cmp.Or(cmp.Compare(min(b.turn, 1), min(a.turn, 1)), cmp.Compare(a.turn, b.turn), cmp.Compare(a.at, b.at))
	})
	var later []Want
	for _, r := range parts {
		now := r.asks[r.next]
		switch within := now.Off <= r.at && (now.End < 0 || r.at < now.End); {
		case within:
			now.Off = r.at
		case r.turn > 0: // it reads what it did not ask for
			now = Want{r.at, -1}
		}
		for i, w := range append([]Want{now}, r.asks[r.next+1:]...) {
			switch {
			case f.have.Holds(w.Off, f.endOf(w)):
			case i == 0 && r.turn > 0:
				wants = append(wants, w)
			default:
				later = append(later, w)
			}
		}
	}
	return append(wants, later...), f.whole
}

// wholeLocked tells whether a reader is after all of it.
func (f *Flight) wholeLocked(r *Reader) bool {
	return len(r.asks) == 0 || r.asks[0].Off == 0 && f.size >= 0 && f.endOf(r.asks[0]) == f.size
}

// endOf is where a want ends; the lock is held.
func (f *Flight) endOf(w Want) int64 {
	if w.End < 0 || f.size >= 0 && w.End > f.size {
		return f.size
	}
	return w.End
}

// Close leaves the flight. It may be called more than once.
func (r *Reader) Close() {
	if r.left {
		return
	}
	r.left = true
	r.f.mu.Lock()
	delete(r.f.readers, r)
	r.f.poke()
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
