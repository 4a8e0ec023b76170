package cache

import (
	"errors"
	"fmt"
	"hash"
	"io"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// maxMends bounds how often one reader goes on after its file broke.
const maxMends = 3

// mend goes on with a hit whose file turned out short or unreadable at the
// reader's offset: the blob is set aside, and the reader follows the fill that
// brings it anew, from where it stands. What it was sent before was right when
// it was stored; what comes is held back at its end until the digest matched.
func (r *Reader) mend(cause error) error {
	if r.fill != nil {
		return r.leave(cause)
	}
	if r.repo == nil || r.mends == maxMends {
		return cause
	}
	r.mends++
	r.c.setAside(r.rec, r.off, cause)
	if r.spoiled() {
		return cause
	}
	if r.old == nil {
		r.old, r.file = r.file, nil
	} else {
		r.file.Close()
		r.file = nil
	}
	for range maxRounds {
		if rec, ok := r.c.findStored(r.rec.Digest); ok { // somebody else has brought it
			if f, ok := r.c.openStored(rec); ok {
				r.rec, r.file = rec, f
				return nil
			}
		}
		follower, err := r.goOn()
		if err != nil {
			return fmt.Errorf("%w, and then: %w", cause, err)
		}
		if follower {
			r.c.stats.mended.Add(1)
			return nil
		}
	}
	return cause
}

// leave goes round a growing file that cannot be read, from where the reader
// stands: what it was sent before is read again, to prove the rest with it.
func (r *Reader) leave(cause error) error {
	if r.spoiled() {
		return cause
	}
	r.c.diskFailed("reading a fill", cause)
	if r.old == nil {
		r.old = r.file
	} else {
		r.file.Close()
	}
	r.file = nil
	_, err := r.goRound()
	return err
}

// spoiled tells whether bytes that were sent may not be what they were when they
// left: what sendfile gives to a socket are the file's own pages, and whoever
// cuts the file short zeroes the rest of the page, however large, in which it
// ends now. An empty one ends in none.
func (r *Reader) spoiled() bool {
	if !r.spliced {
		return false
	}
	fi, err := r.file.Stat()
	return err == nil && fi.Size() > 0 && fi.Size() < r.off
}

// goOn follows the fill of the blob; false if it is to be looked for again.
func (r *Reader) goOn() (bool, error) {
	f, follower, _ := r.c.join(r.repo, r.rec.Digest, nil)
	switch {
	case f == nil:
		return false, errClosed
	case follower == nil:
		return false, f.over(r.ctx)
	}
	size, err := f.Size(r.ctx)
	switch {
	case err == nil && size != r.size:
		err = fmt.Errorf("upstream has %d bytes, and %d are cached: %w", size, r.size, oci.ErrCorrupt)
	case err == nil:
		r.fill, r.follower = f, follower
		r.c.stats.readers.Add(1)
		if f.data == nil {
			r.openFile()
		}
		return true, nil
	case r.ctx.Err() == nil && (f.proof || errors.Is(err, errHere) || errors.Is(err, errStalled) || errors.Is(err, errMismatch) && f.attempt == 1):
		err = nil // it is here, or another attempt is under way
	}
	follower.Close()
	return false, err
}

// prefixHash is the hash of what was sent, read again from the file that broke;
// nil if it does not give it any more.
func (r *Reader) prefixHash() hash.Hash {
	h := r.fill.digest.Hash()
	if n, err := io.Copy(h, io.NewSectionReader(r.old, 0, r.off)); err != nil || n != r.off {
		return nil
	}
	return h
}

// donor is the readable beginning of a blob whose file broke: a fill starts with
// it instead of fetching it again.
type donor struct {
	file *blob.File
	upto int64
	rec  index.Record
}

// close is fine on nil.
func (dn *donor) close() {
	if dn != nil {
		dn.file.Close()
	}
}

// setAside drops a blob whose file broke at an offset, and keeps what comes
// before for the fill that follows.
func (c *Cache) setAside(rec index.Record, off int64, cause error) {
	var dn *donor
	if off > maxCollect {
		if f, err := c.store.OpenFile(rec.Digest); err == nil {
			dn = &donor{f, off, rec}
		}
	}
	if !c.spoil(rec, flaw{fmt.Errorf("it broke while it was read: %w", cause), off, false}) {
		dn.close()
		return // somebody else did
	}
	if dn == nil {
		return
	}
	c.mu.Lock()
	old := c.donors[rec.Digest]
	c.donors[rec.Digest] = dn
	c.mu.Unlock()
	old.close()
}

// takeDonor gives the donor of a digest to its one taker, nil if there is none.
func (c *Cache) takeDonor(d oci.Digest) *donor {
	c.mu.Lock()
	defer c.mu.Unlock()
	dn := c.donors[d]
	delete(c.donors, d)
	return dn
}

// dropDonors closes those that no fill came for.
func (c *Cache) dropDonors() {
	for d := range c.donors {
		c.takeDonor(d).close()
	}
}

// transplant begins a fill with what a donor has. nil: nothing of it is of use.
func (c *Cache) transplant(f *fill, dn *donor) *leftover {
	defer dn.close()
	in, err := c.create(f.ctx, f.digest, dn.rec.Size, dn.rec.Public)
	if err != nil {
		return nil
	}
	f.in = in
	left := &leftover{c: c, in: in, hash: f.digest.Hash(), public: dn.rec.Public}
	// It may break again, earlier: then that much less is of use.
	src := &stoppable{f.ctx, io.NewSectionReader(dn.file, 0, dn.upto)}
	if _, err := io.Copy(io.MultiWriter(in, left.hash), src); errors.Is(err, blob.ErrDisk) || in.Front() == 0 {
		c.abort(in)
		return nil
	}
	left.hashed = in.Front()
	c.stats.resumed.Add(uint64(left.hashed))
	return left
}
