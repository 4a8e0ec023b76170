package cache

import (
	"errors"

	"cistern/cache/flight"
	"cistern/internal/oci"
)

// openRest finds out how large the blob is, and whether it is there, and opens a
// stream of what is wanted first. A leftover that cannot be a part of the blob is
// dropped; behind one, streams are opened as they are needed. The stream is not
// open, then, and only says the size.
func (c *Cache) openRest(f *fill, left *leftover) (*stream, *leftover, error) {
	if left == nil {
		s, err := c.openFirst(f)
		return s, nil, err
	}
	s := newStream(f.ctx, f.repo.Source, f.may, f.digest, 0, -1, left.in.Size())
	if left.public && s.size >= 0 && left.has(f.asks) {
		return s, left, nil // and upstream is not asked
	}
	info, err := f.repo.Source.BlobInfo(f.ctx, f.digest)
	if err != nil {
		return s, left, err
	}
	f.private = info.Private
	c.undoubt(f.digest)
	switch said := left.in.Size(); {
	case info.Size >= 0 && (said == info.Size || said < 0 && left.in.Len() < info.Size):
		s.size = info.Size
		return s, left, nil
	case info.Size < 0 && said < 0:
		s.off = left.in.Len()
		if err := s.open(); !errors.Is(err, oci.ErrCorrupt) {
			return s, left, err
		}
	}
	c.abort(left.in)
	f.in = nil
	s, err = c.openFirst(f)
	return s, nil, err
}

// has tells whether a leftover holds all that is asked for.
func (l *leftover) has(asks []Range) bool {
	var there flight.Extents
	for _, r := range l.in.Ranges() {
		there.Add(r.Off, r.End)
	}
	for _, a := range asks {
		if end := a.End; end < 0 || !there.Holds(a.Off, min(end, l.in.Size())) {
			return false
		}
	}
	return len(asks) > 0
}

// beyond is an offset in no blob: no more can be added to it.
const beyond = 1 << 62

// openFirst opens a blob of which nothing is here: the pieces that the first reader
// is after, by a closed range, or all of it, of a host that pays several streams
// the first part of it.
func (c *Cache) openFirst(f *fill) (*stream, error) {
	s := newStream(f.ctx, f.repo.Source, f.may, f.digest, 0, -1, -1)
	s.back = true
	switch {
	case len(f.asks) > 0:
		off, end := f.asks[0].Off, f.asks[0].End
		if off > beyond {
			return c.askSize(f)
		}
		s.off, _ = aligned(off, 0)
		s.upto = s.off + maxSegment
		if end >= 0 && end < s.upto {
			_, s.upto = aligned(0, end)
		}
	case c.paces.probable(f.repo.Upstream, f.repo.streams()) > 1:
		s.upto = firstSegment
	}
	err := s.open()
	if s.upto >= 0 && errors.Is(err, oci.ErrCorrupt) || err == nil && s.size < 0 && !s.whole() {
		// The range lies behind the end, or is not answered as it should be.
		s.close()
		return c.askSize(f)
	}
	if err == nil {
		f.private = s.body.Private
	}
	return s, err
}

// askSize is openFirst where a range does not tell the size.
func (c *Cache) askSize(f *fill) (*stream, error) {
	info, err := f.repo.Source.BlobInfo(f.ctx, f.digest)
	if err != nil {
		return newStream(f.ctx, f.repo.Source, f.may, f.digest, 0, -1, -1), err
	}
	s := newStream(f.ctx, f.repo.Source, f.may, f.digest, 0, -1, info.Size)
	f.private = info.Private
	if info.Size < 0 {
		err = s.open()
	}
	return s, err
}

// streams is how many streams one of its blobs may be fetched by.
func (r *Repository) streams() int {
	if r.Policy == nil {
		return 1
	}
	return max(1, r.Policy.MaxStreams)
}
