package cache

import (
	"cistern/cache/blob"
	"cistern/cache/flight"
)

const (
	// maxSegment is how much one stream fetches at a time where several do: the
	// front is never far behind, and a request each costs a round trip.
	maxSegment = 8 << 20
	// firstSegment is what is asked for first of a host that pays several streams,
	// before the size is known.
	firstSegment = 2 << 20
	// reach is how far ahead of a stream a reader may be and wait for it, rather
	// than for a stream of its own.
	reach = 1 << 20
	// maxWanted bounds the streams of one fill for what readers wait for.
	maxWanted = 16
)

// job is bytes [at, end) that one stream fetches. at moves on, and end may come
// nearer: then another fetches the rest.
type job struct {
	at, end int64
	there   int64 // up to here all is written: at or less
	wanted  bool  // by a reader of a part
	part    bool  // its stream has asked for a range
	cut     bool  // its stream was asked for more than it is to bring
	counts  bool  // it is one of the host's streams
	s       *stream
	err     error // why it ended
}

func newJob(off, end int64) *job { return &job{at: off, end: end, there: off} }

// plan chooses what a fill fetches next. It knows no streams and does nothing.
type plan struct {
	size int64
	most int            // streams that there may ever be
	have flight.Extents // what is there
	jobs []*job         // what is on its way
}

// taken is what needs no stream any more.
func (p *plan) taken() flight.Extents {
	t := p.have.Clone()
	for _, j := range p.jobs {
		t.Add(j.there, max(j.at, j.end))
	}
	return t
}

// count tells how many streams fetch what readers of a part wait for, and how many
// the rest.
func (p *plan) count() (wanted, others int) {
	for _, j := range p.jobs {
		if j.wanted {
			wanted++
		} else {
			others++
		}
	}
	return wanted, others
}

// want gives the next job for what readers of a part are after, nil if there is
// none.
func (p *plan) want(wants []flight.Want) *job {
	if n, _ := p.count(); n >= maxWanted {
		return nil
	}
	taken := p.taken()
	for _, w := range wants {
		from, end, more := p.pieces(w)
		if p.cede(from) {
			taken = p.taken()
		}
		off, end := taken.Gap(from, end)
		if off >= end || more && off > w.Off && end-off < maxSegment {
			continue // a reader on its way is kept a segment ahead, not a piece
		}
		j := newJob(off, min(end, off+maxSegment))
		j.wanted = true
		return j
	}
	return nil
}

// pieces is what is fetched for a want: whole pieces, and of a long one what its
// reader comes to next; then there is more.
func (p *plan) pieces(w flight.Want) (off, end int64, more bool) {
	if end = w.End; end < 0 || end > p.size {
		end = p.size
	}
	if most := w.Off + 2*maxSegment; end > most {
		end, more = most, true
	}
	off, end = aligned(w.Off, end)
	return off, min(end, p.size), more
}

// aligned is the whole pieces that [off, end) touches.
func aligned(off, end int64) (int64, int64) {
	return off / blob.PieceSize * blob.PieceSize, (end + blob.PieceSize - 1) / blob.PieceSize * blob.PieceSize
}

// cede has a stream that is far before off leave that, and what follows, to
// another. It tells whether there was one.
func (p *plan) cede(off int64) bool {
	for _, j := range p.jobs {
		if !j.wanted && j.at+reach < off && off < j.end {
			j.end, j.cut = off, true
			return true
		}
	}
	return false
}

// sweep gives the next job of one of n streams that fetch all that is missing, nil
// if there is none. Where that takes more than one, the blob's beginning comes
// first. try is for one more than is known to pay: it takes its part from the
// end, where it is not in the way of the one that may turn out to be enough.
func (p *plan) sweep(n int, try bool) *job {
	if _, others := p.count(); others >= n {
		return nil
	}
	taken := p.taken()
	off, end := taken.Gap(0, p.size)
	if off < end {
		if n > 1 {
			end = min(end, off+p.segment())
		}
		return newJob(off, end)
	}
	long := p.longest()
	if !long.divides() {
		return nil
	}
	segment := min(p.segment(), (long.end-long.at)/2)
	if try {
		off, _ = aligned(long.end-segment, 0)
		end = long.end
	} else {
		_, off = aligned(0, long.at+segment)
		end = min(long.end, off+segment)
	}
	long.end, long.cut = off, true
	return newJob(off, end)
}

// divides tells whether another stream may take the end of a job: what lies in
// buffers when its stream is cut off comes twice. Of one that is cut in any case it
// does so wherever that is.
func (j *job) divides() bool {
	switch {
	case j == nil:
		return false
	case j.cut:
		return j.end-j.at > 3*blob.PieceSize
	}
	return j.end-j.at > maxSegment
}

// segment is what one of several streams takes at a time: less towards the end, so
// that all come to it together, however many there are then, and not much less than
// its part of what is left, since each costs a round trip.
func (p *plan) segment() int64 {
	_, part := aligned(0, (p.size-p.have.Bytes())*3/int64(4*max(1, p.most)))
	return min(maxSegment, max(blob.PieceSize, part))
}

// spare is what is left for one stream more: what none fetches, or the end of the
// longest job.
func (p *plan) spare() int64 {
	taken := p.taken()
	left := p.size - taken.Bytes()
	if long := p.longest(); long.divides() {
		left = max(left, long.end-long.at)
	}
	return left
}

// longest is the job with the most left to fetch for nobody in particular.
func (p *plan) longest() (long *job) {
	for _, j := range p.jobs {
		if !j.wanted && (long == nil || j.end-j.at > long.end-long.at) {
			long = j
		}
	}
	return long
}
