package crash_test

import (
	"fmt"
	"time"
)

// A toll is what ends cost of the large blobs that were on their way.
type toll struct {
	cuts, kills int
	noted       int // cuts that came as pieces were noted
	met         int // cuts that met a blob with synced pieces
	cut, kill   cost
	ended       cost // of blobs that had come to their end when the power was cut, on record or not yet
	hit         bool // in this life a cut has met one
}

// A cost is the sum over blobs that were on their way at such an end.
type cost struct {
	blobs, synced, sparse, several int   // synced: in part; sparse: with holes; several: by streams beside each other
	size, disk, kept, fetched      int64 // bytes: of the blobs, on disk before, good for going on after, and fetched then
	twice                          int64 // bytes that were fetched before and then
}

func sum(ns []int64) (all int64) {
	for _, n := range ns {
		all += n
	}
	return all
}

// note notes what came of one blob.
func (y *toll) note(how ending, left, before *remnant, sent, again int64, several bool) {
	c := &y.kill
	switch {
	case before.ended() && !how.cut:
		return
	case before.ended():
		c = &y.ended
	case how.cut:
		c = &y.cut
	}
	c.blobs++
	if len(left.in(pieceSynced)) > 0 {
		c.synced++
		y.hit = y.hit || c == &y.cut
	}
	if before.sparse() {
		c.sparse++
	}
	if several {
		c.several++
	}
	c.size += left.x.size()
	c.disk += before.bytes(false)
	c.kept += left.bytes(how.cut)
	c.fetched += again
	c.twice += sent + again - left.x.size()
}

// lived notes a life.
func (y *toll) lived(how ending, noted bool) {
	if !how.cut {
		y.kills++
		return
	}
	y.cuts++
	if noted {
		y.noted++
	}
	if y.hit {
		y.met++
	}
	y.hit = false
}

// worth fails a series that has shown nothing.
func (f *filler) worth() {
	f.t.Helper()
	void := func(is bool, format string, args ...any) {
		if is && !f.t.Failed() {
			f.t.Error("void: " + fmt.Sprintf(format, args...))
		}
	}
	c := f.toll.cut
	void(3*f.met < f.cuts, "%d of %d cuts met a blob with synced pieces", f.met, f.cuts) // of a few on a busy machine not more
	void(f.noted == 0, "no cut came as pieces were noted")
	void(c.sparse == 0 || c.several == 0, "%d blobs had holes and %d came by several streams", c.sparse, c.several)
	void(f.toll.kill.disk == 0, "nothing was on its way when it was killed")
}

// row is a row of the table in docs/faults.md.
func (y *toll) row(name string, seed uint64, took time.Duration) string {
	mb := func(n int64) float64 { return float64(n) / 1e6 }
	c, k := y.cut, y.kill
	return fmt.Sprintf("| %s | %d | %d cuts, %d met synced pieces, %d as they were noted | %d blobs, %d synced in part, %d with holes, %d by several streams |"+
		" %.1f MB on disk, %.1f synced, %.1f fetched of %.1f | %d had ended: %.1f MB fetched of %.1f | %d kills, %d blobs: %.1f MB on disk, %.1f fetched of %.1f, %.1f of them twice | %.0f s |",
		name, seed, y.cuts, y.met, y.noted, c.blobs, c.synced, c.sparse, c.several, mb(c.disk), mb(c.kept), mb(c.fetched), mb(c.size),
		y.ended.blobs, mb(y.ended.fetched), mb(y.ended.size), y.kills, k.blobs, mb(k.disk), mb(k.fetched), mb(k.size), mb(k.twice), took.Seconds())
}
