package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"time"

	"go.uber.org/zap"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// leftover is what lay on disk of a blob, and its hash.
type leftover struct {
	c      *Cache
	in     *blob.Ingest
	hash   hash.Hash // of the beginning
	hashed int64     // up to here
	public bool      // whoever fetched it needed no credentials
	lay    bool      // in blobs/, without a record
}

// keep puts the leftover back, untouched.
func (l *leftover) keep() {
	if l != nil {
		l.c.keepPartial(l.in)
	}
}

// leftover opens and hashes what is on disk of a blob: what an earlier fill
// left, a file that lost its record, or the readable part of one that broke. nil
// if nothing or nothing usable. After wrong bytes nothing is: the second attempt
// starts from zero.
func (c *Cache) leftover(f *fill) (*leftover, error) {
	if !f.alone || !c.keeping() || f.attempt > 1 {
		return nil, nil
	}
	if dn := c.takeDonor(f.digest); dn != nil {
		return c.transplant(f, dn), nil
	}
	lay := c.store.Kept(f.digest) == 0
	if lay && !c.demote(f.digest) {
		return nil, nil
	}
	res, err := c.store.Reserve(f.ctx, 0)
	if err != nil {
		return nil, nil
	}
	defer func() {
		if f.in == nil {
			res.Release() // if it panicked; else it is released
		}
	}()
	public := c.store.KeptPublic(f.digest)
	in, err := c.store.Resume(f.digest, res)
	if err != nil {
		c.diskFailed("resuming a fill", err)
		return nil, nil
	}
	f.in = in
	left := &leftover{c, in, f.digest.Hash(), 0, public, lay}
	if in.Tracked() { // its beginning is hashed while the rest is fetched
		for _, r := range in.Ranges() {
			c.stats.resumed.Add(uint64(r.End - r.Off))
		}
		return left, nil
	}
	return c.hashLeft(f, left)
}

// demote takes a file that lost its record for a fill to go on with.
func (c *Cache) demote(d oci.Digest) bool {
	if !c.rebuild.on.Load() {
		return false
	}
	err := c.store.Demote(d)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.diskFailed("taking a file without a record up", err)
	}
	if err == nil {
		c.rebuild.unfit.takeLeft(d) // it counts where it is now
	}
	return err == nil
}

// hashLeft reads a leftover. Where the index knew its size, readers follow the
// reading, as they follow a fill: nobody waits for gigabytes to be hashed. It
// gives nil if the bytes cannot be used, errDamaged if readers have had some.
func (c *Cache) hashLeft(f *fill, left *leftover) (*leftover, error) {
	n := left.in.Front()
	rec, known := c.label(f.digest)
	if known && rec.Size == n {
		left.public = rec.Public
		f.private, f.here, f.unasked = !rec.Public, true, true
		c.regrant(f.digest)
		f.Open(n)
	}
	src := &guarded{c, &stoppable{f.ctx, io.NewSectionReader(left.in, 0, n)}, 0, func(n int64) { c.leaveLeft(f, left.hash, n) }}
	buf := c.chunks.Get().(*[chunk]byte)
	defer c.chunks.Put(buf)
	_, err := io.CopyBuffer(left.hash, &follow{src, func(n int64) {
		if f.here {
			f.Add(0, n)
		}
	}, 0}, buf[:])
	if err == nil && left.lay {
		c.rebuild.hashed.Add(1)
	}
	switch {
	case f.ctx.Err() != nil:
		left.keep()
		return nil, context.Cause(f.ctx)
	case errors.Is(err, errStalled):
		left.keep()
		return nil, err
	case err != nil && f.proof && left.lay: // the disk may give it another day
		c.diskFailed("proving a blob", err)
		left.keep()
		return nil, fmt.Errorf("what lay in the cache cannot be read: %w", err)
	case err != nil:
		c.diskFailed("reading a fill again", err)
	case !f.here || f.digest.Matches(left.hash):
		left.hashed = n
		c.stats.resumed.Add(uint64(n))
		return left, nil
	case f.proof && left.lay:
		c.disownFill(f, left)
		return nil, errDamaged
	}
	c.abort(left.in)
	c.undoubt(f.digest)
	if f.here {
		return nil, errDamaged
	}
	return nil, nil
}

// follow tells how far reading has come, before the next read.
type follow struct {
	r    io.Reader
	tell func(n int64)
	n    int64
}

// Read implements io.Reader.
func (f *follow) Read(p []byte) (int, error) {
	f.tell(f.n)
	n, err := f.r.Read(p)
	f.n += int64(n)
	return n, err
}

// adopt takes a leftover that turned out to be the whole blob. Its bytes are
// proven by the digest; that this repository may have them, where that was not
// public, by the index as it was, or by upstream.
func (c *Cache) adopt(f *fill, l *leftover) error {
	if !f.here { // else the index knew it, and the flight is open
		switch {
		case l.public:
		case f.proof:
			f.private, f.unasked = true, true // nobody's, until upstream says whose
		default:
			r, err := f.repo.Source.BlobInfo(f.ctx, f.digest)
			if err != nil {
				l.keep()
				return err
			}
			f.private = r.Private
		}
		f.here = true
		f.Open(l.in.Front())
	}
	f.Add(0, l.in.Front())
	return c.finish(f, l.in)
}

// finish makes a verified fill a blob. The flight is done even if the disk
// fails now: the bytes are right, and whoever reads them has the file open.
func (c *Cache) finish(f *fill, in *blob.Ingest) error {
	defer f.Done()
	rec := f.record(in.Len())
	if known, ok := c.label(f.digest); ok && known.Size == rec.Size {
		known.Public = known.Public || rec.Public
		rec = known
	}
	var err error
	if rec.Allocated, err = in.Commit(); err != nil {
		c.diskFailed("committing a blob", err)
		return nil
	}
	c.admit(rec)
	c.vouch(f)
	return nil
}

// record describes what a fill brought.
func (f *fill) record(size int64) index.Record {
	now := time.Now()
	return index.Record{
		Digest: f.digest, Size: size, MediaType: oci.MediaTypeOctetStream, Class: index.ClassOf(size, false),
		FirstSeen: now, LastUsed: now, Public: !f.private, Origin: f.repo.Upstream,
	}
}

// vouch notes that the fill's repository holds the blob, if upstream has said so.
func (c *Cache) vouch(f *fill) {
	if f.private && !f.unasked {
		c.grant(f.repo.Repository, f.digest)
	}
}

// storeBytes writes a small verified object to disk and remembers it. Where
// the disk does not take it, it is served from memory as long as it stays
// there.
func (c *Cache) storeBytes(rec index.Record, data []byte) {
	if rec.Size <= maxHot {
		c.hot.add(rec, data)
	}
	if !c.keeping() {
		return
	}
	in, err := c.create(c.ctx, rec.Digest, rec.Size, rec.Public)
	if err != nil {
		return
	}
	defer c.abort(in) // if something panics; else it has ended
	if _, err := in.Write(data); err != nil {
		c.diskFailed("writing a blob", err)
		c.abort(in)
		return
	}
	if rec.Allocated, err = in.Commit(); err != nil {
		c.diskFailed("committing a blob", err)
		return
	}
	c.admit(rec)
}

// claim takes the right to write the file of a digest, for a fill, a manifest
// that was fetched, a proof, or a removal: the store leaves it to its caller that
// there is one at a time. Whoever does not get it streams.
func (c *Cache) claim(d oci.Digest) bool { return c.claimOr(d, nil) }

// claimOr is claim for who does not stream: next is done when whoever has the
// right gives it back. One waits, the latest.
func (c *Cache) claimOr(d oci.Digest, next func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, taken := c.writing[d]
	switch {
	case !taken:
		c.writing[d] = nil
	case next != nil:
		c.writing[d] = next
	}
	return !taken
}

func (c *Cache) release(d oci.Digest) {
	c.mu.Lock()
	next := c.writing[d]
	delete(c.writing, d)
	c.mu.Unlock()
	if next != nil {
		c.unhurried(next)
	}
}

// keepPartial closes an unfinished fill and leaves it on disk for the next.
func (c *Cache) keepPartial(in *blob.Ingest) {
	if err := in.Keep(); err != nil {
		c.log.Warn("keeping an unfinished fill", zap.Error(err))
	}
}

func (c *Cache) abort(in *blob.Ingest) {
	if err := in.Abort(); err != nil {
		c.log.Warn("removing an unfinished fill", zap.Error(err))
	}
}

// tryDisk writes a byte and takes it back. If that works, what went wrong with
// the disk before is over: nothing but a question like this one would find that
// out where nobody asks for new blobs any more, because we are not ready.
func (c *Cache) tryDisk() error {
	if c.stalls.Load() > 0 {
		return errStalled
	}
	tried := make(chan error, 1)
	c.unhurried(func() { tried <- c.writeByte() })
	select {
	case err := <-tried:
		return err
	default:
		return errStalled
	}
}

func (c *Cache) writeByte() error {
	d := oci.FromBytes([]byte("no blob: does the disk take a file?"))
	if !c.claim(d) {
		return nil // somebody is trying
	}
	defer c.release(d)
	res, err := c.store.Reserve(c.ctx, 1)
	if errors.Is(err, blob.ErrNoSpace) {
		return nil // nothing wrong: what is here is in use
	}
	if err != nil {
		return fmt.Errorf("reserving space: %w", err)
	}
	var in *blob.Ingest
	defer func() {
		if in == nil {
			res.Release() // if it panicked; else it is released
		}
	}()
	if in, err = c.store.Create(d, res); err == nil {
		defer c.abort(in) // if it panics; else it has ended
		_, err = in.Write([]byte{0})
		err = errors.Join(err, in.Abort())
	}
	if err != nil {
		c.diskFailed("trying the disk", err)
		return fmt.Errorf("the disk takes no file: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble = ""
	return nil
}

// diskFailed notes why a blob went past the disk. No room is normal when the
// cache is small; anything else is said once until the disk works again.
func (c *Cache) diskFailed(op string, err error) {
	if errors.Is(err, blob.ErrNoSpace) || errors.Is(err, context.Canceled) || c.ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	said := c.trouble != ""
	c.trouble = op + ": " + err.Error()
	c.mu.Unlock()
	if !said {
		c.log.Error("the cache directory does not take new blobs: they are streamed", zap.String("operation", op), zap.Error(err))
	}
}
