package cache

import (
	"testing"

	"pgregory.net/rapid"

	"cistern/cache/blob"
	"cistern/cache/flight"
)

// TestPlan drives a plan as streams would, in any order and with readers that come
// and go, and with streams that are refused: each byte is fetched once, no two jobs
// overlap, what is waited for is on its way before anything else is begun, and in
// the end all is there.
func TestPlan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 70*blob.PieceSize).Draw(t, "size")
		p := &plan{size: size, most: rapid.IntRange(1, 8).Draw(t, "most")}
		for _, off := range rapid.SliceOfN(rapid.Int64Range(0, 69), 0, 5).Draw(t, "left") {
			p.have.Add(off*blob.PieceSize, min(size, (off+1)*blob.PieceSize))
		}
		fetched := p.have.Bytes()
		for p.have.Bytes() < size {
			n := rapid.IntRange(1, 5).Draw(t, "streams")
			var wants []flight.Want
			for range rapid.IntRange(0, 3).Draw(t, "wants") {
				off := rapid.Int64Range(0, size-1).Draw(t, "off")
				if end := off + rapid.Int64Range(1, size).Draw(t, "n"); !p.have.Holds(off, off+1) {
					wants = append(wants, flight.Want{Off: off, End: end})
				}
			}
			for {
				j := p.want(wants)
				if j == nil {
					j = p.sweep(n, n > 1 && rapid.Bool().Draw(t, "try"))
				}
				if j == nil {
					break
				}
				p.jobs = append(p.jobs, j)
				checkJobs(t, p)
			}
			for _, w := range wants {
				if !p.comes(w.Off) && len(p.jobs) < maxWanted {
					t.Fatalf("nobody fetches byte %d: %v", w.Off, p.jobs)
				}
			}
			if len(p.jobs) == 0 {
				t.Fatalf("%d of %d bytes, and nothing is fetched", p.have.Bytes(), size)
			}
			i := rapid.IntRange(0, len(p.jobs)-1).Draw(t, "job")
			j := p.jobs[i]
			to := rapid.Int64Range(j.at, j.end).Draw(t, "to")
			p.have.Add(j.at, to)
			fetched += to - j.at
			j.at, j.there = to, to
			if to == j.end || rapid.IntRange(0, 9).Draw(t, "refused") == 0 {
				p.jobs = append(p.jobs[:i:i], p.jobs[i+1:]...)
			}
		}
		if fetched != size {
			t.Fatalf("%d bytes fetched of %d", fetched, size)
		}
	})
}

// comes tells whether a byte is there, or a stream is near it.
func (p *plan) comes(off int64) bool {
	if p.have.Holds(off, off+1) {
		return true
	}
	for _, j := range p.jobs {
		if j.there <= off && off < j.end && off/blob.PieceSize*blob.PieceSize <= max(j.at+reach, j.at+maxSegment) {
			return true
		}
	}
	return false
}

func checkJobs(t *rapid.T, p *plan) {
	var all flight.Extents
	for _, j := range p.jobs {
		before := all.Bytes()
		all.Add(j.at, j.end)
		if j.at >= j.end || j.end > p.size || all.Bytes() != before+j.end-j.at {
			t.Fatalf("a job for [%d, %d) of %d beside others: %v", j.at, j.end, p.size, p.jobs)
		}
		if off, end := p.have.Gap(j.at, j.end); off != j.at || end != j.end {
			t.Fatalf("a job for [%d, %d), of which something is there: [%d, %d) is not", j.at, j.end, off, end)
		}
	}
}
