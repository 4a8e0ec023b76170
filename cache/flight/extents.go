package flight

import (
	"iter"
	"slices"
)

// Extents is a set of bytes: ranges [off, end) that neither overlap nor touch,
// in order. The zero value is empty. It is not safe for concurrent use.
//
// A fill has few of them at a time, one for each stream and each place that a
// lazy reader has looked at, so a sorted slice it is.
type Extents struct {
	spans []span
	bytes int64
}

type span struct{ off, end int64 }

// Add puts [off, end) into the set; nothing if it is empty or lies before 0.
func (x *Extents) Add(off, end int64) {
	if off < 0 || off >= end {
		return
	}
	// All that overlap or touch it become one with it.
	from := x.after(off - 1)
	to := from
	for ; to < len(x.spans) && x.spans[to].off <= end; to++ {
		off, end = min(off, x.spans[to].off), max(end, x.spans[to].end)
		x.bytes -= x.spans[to].end - x.spans[to].off
	}
	x.bytes += end - off
	if to == from+1 { // the common case: one grows
		x.spans[from] = span{off, end}
		return
	}
	x.spans = slices.Replace(x.spans, from, to, span{off, end})
}

// after is the first span that ends behind off.
func (x *Extents) after(off int64) int {
	i, _ := slices.BinarySearchFunc(x.spans, off, func(s span, off int64) int {
		if s.end <= off {
			return -1
		}
		return 1
	})
	return i
}

// End gives how far the set goes on from off: off itself if that is not in it.
func (x *Extents) End(off int64) int64 {
	if i := x.after(off); i < len(x.spans) && x.spans[i].off <= off {
		return x.spans[i].end
	}
	return off
}

// Gap gives the first range at or behind off, and before end, that is not in the
// set: off == end if there is none.
func (x *Extents) Gap(off, end int64) (int64, int64) {
	off = min(x.End(off), end)
	if i := x.after(off); i < len(x.spans) {
		end = min(end, x.spans[i].off)
	}
	return off, max(off, end)
}

// Gaps counts the ranges before end that are not in the set.
func (x *Extents) Gaps(end int64) (n int) {
	for off, to := x.Gap(0, end); off < to; off, to = x.Gap(to, end) {
		n++
	}
	return n
}

// Holds tells whether all of [off, end) is in the set.
func (x *Extents) Holds(off, end int64) bool { return off >= end || x.End(off) >= end }

// Len is how many ranges there are.
func (x *Extents) Len() int { return len(x.spans) }

// Bytes is how many there are.
func (x *Extents) Bytes() int64 { return x.bytes }

// All yields the ranges in order.
func (x *Extents) All() iter.Seq2[int64, int64] {
	return func(yield func(off, end int64) bool) {
		for _, s := range x.spans {
			if !yield(s.off, s.end) {
				return
			}
		}
	}
}

// Clone gives a copy that does not change with x.
func (x *Extents) Clone() Extents { return Extents{slices.Clone(x.spans), x.bytes} }
