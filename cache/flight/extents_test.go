package flight

import (
	"math/rand/v2"
	"testing"
)

// bitmap is the model of a set of extents.
type bitmap [64]bool

func (b *bitmap) add(off, end int64) {
	for i := max(off, 0); i < end; i++ {
		b[i] = true
	}
}

// compare asks all that can be asked.
func (b *bitmap) compare(t *testing.T, x *Extents) {
	t.Helper()
	var bytes int64
	for off := range int64(len(b)) {
		end := off
		for end < int64(len(b)) && b[end] {
			end++
		}
		if got := x.End(off); got != end {
			t.Fatalf("%v: from %d to %d, want %d", x.spans, off, got, end)
		}
		if b[off] {
			bytes++
		}
		for end := off; end <= int64(len(b)); end++ {
			from := off
			for from < end && b[from] {
				from++
			}
			to := from
			for to < end && !b[to] {
				to++
			}
			if gotFrom, gotTo := x.Gap(off, end); gotFrom != from || gotTo != to {
				t.Fatalf("%v: gap in [%d, %d): [%d, %d), want [%d, %d)", x.spans, off, end, gotFrom, gotTo, from, to)
			}
			if x.Holds(off, end) != (from == end) {
				t.Fatalf("%v: holds [%d, %d): %v", x.spans, off, end, x.Holds(off, end))
			}
		}
	}
	if x.Bytes() != bytes {
		t.Fatalf("%v: %d bytes, want %d", x.spans, x.Bytes(), bytes)
	}
	last := int64(-1)
	for off, end := range x.All() {
		if off <= last || end <= off {
			t.Fatalf("%v: not in order, or they touch", x.spans)
		}
		last = end
	}
}

func TestExtents(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var x Extents
		var b bitmap
		for range 1 + rng.IntN(12) {
			off := rng.Int64N(62)
			end := off + rng.Int64N(min(64-off, 1+rng.Int64N(20)))
			x.Add(off, end)
			b.add(off, end)
			b.compare(t, &x)
		}
	}
}

func TestExtentsClone(t *testing.T) {
	t.Parallel()
	var x Extents
	x.Add(5, 9)
	x.Add(-3, 2) // nothing lies before a blob
	y := x.Clone()
	x.Add(0, 9)
	if y.Bytes() != 4 || x.Bytes() != 9 || y.End(0) != 0 {
		t.Errorf("%v, and its copy %v", x.spans, y.spans)
	}
}

// FuzzExtents: pairs of bytes are ranges.
func FuzzExtents(f *testing.F) {
	f.Add([]byte{0, 10, 20, 30, 5, 25})
	f.Add([]byte{1, 2, 3, 4, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		var x Extents
		var b bitmap
		for ; len(data) >= 2; data = data[2:] {
			off, end := int64(data[0]%64), int64(data[1]%65)
			x.Add(off, end)
			b.add(off, end)
		}
		b.compare(t, &x)
	})
}
