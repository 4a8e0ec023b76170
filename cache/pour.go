package cache

import (
	"context"
	"errors"
	"hash"
	"io"
	"time"

	"cistern/cache/blob"
	"cistern/internal/oci"
)

// collect takes a small blob into memory, answers from there, and stores it
// after that.
func (c *Cache) collect(f *fill, s *stream) error {
	size := s.size
	f.data = c.memory(f, size)
	t := time.AfterFunc(collectFor, func() { f.Open(size) })
	defer t.Stop()
	for have := 0; have < len(f.data); {
		n, err := s.Read(f.data[have:])
		if err != nil && c.abandoned(f) {
			h := f.digest.Hash()
			h.Write(f.data[:have])
			f.Open(size)
			return f.letGo(h, int64(have))
		}
		if err != nil {
			return err
		}
		have += n
		f.Add(0, int64(have))
	}
	if !f.digest.Verify(f.data) {
		return errMismatch
	}
	f.Done()
	if f.alone {
		_ = c.onDisk(func() {}, func() error { c.storeBytes(f.record(size), f.data); return nil }) // nobody waits for it
	}
	c.vouch(f)
	return nil
}

// memory is where a fill is collected. Three quarters of what fills of small blobs
// leave to the garbage collector would be this; so all that will not stay in the
// hot set is used again.
func (c *Cache) memory(f *fill, size int64) []byte {
	if size <= maxHot {
		return make([]byte, size)
	}
	f.buf = c.chunks.Get().(*[chunk]byte)
	return f.buf[:size]
}

// spool takes a blob into a file that its readers follow.
func (c *Cache) spool(f *fill, s *stream, left *leftover) error {
	in, h, err := c.ingest(f, s, left)
	switch {
	case errors.Is(err, errStalled):
		return nil
	case err != nil:
		c.unback(f, s, f.digest.Hash(), 0)
		return nil
	}
	f.in = in
	f.Open(s.size)
	f.Add(0, in.Front())
	saved := &saver{in: in, due: in.Front() + saveStep}
	err = c.pour(f, s, saved, h)
	switch {
	case err != nil:
	case f.digest.Matches(h):
		f.Done() // nobody waits for what is still being synced
	default:
		err = errMismatch
	}
	if serr := saved.wait(); serr != nil {
		c.diskFailed("syncing a fill", serr)
		c.abort(in) // its content is unknown now
		return err
	}
	switch {
	case err == nil:
		return c.finish(f, in)
	case errors.Is(err, errUnbacked), errors.Is(err, errMismatch):
		c.abort(in)
		return err
	}
	c.keepPartial(in)
	if c.abandoned(f) {
		return f.letGo(h, in.Front())
	}
	return err
}

// ingest opens the file that a fill grows in. After errStalled its readers go on
// without it already.
func (c *Cache) ingest(f *fill, s *stream, left *leftover) (in *blob.Ingest, h hash.Hash, err error) {
	if left != nil {
		if err := left.in.Reach(f.ctx, s.size); err != nil {
			left.keep()
			return nil, nil, err
		}
		return left.in, left.hash, nil
	}
	if !f.alone || !c.keeping() {
		return nil, nil, errUnbacked
	}
	h = f.digest.Hash()
	err = c.onDisk(func() { c.unback(f, s, h, 0) }, func() error {
		in, err = c.create(f.ctx, f.digest, s.size, !f.private)
		return err
	})
	if errors.Is(err, errStalled) && in != nil {
		c.abort(in)
	}
	return in, h, err
}

// create makes the file of a blob of so many bytes, -1 if that is not known.
func (c *Cache) create(ctx context.Context, d oci.Digest, size int64, public bool) (in *blob.Ingest, err error) {
	// A file without a record would be found in place of the new one.
	if _, lies := c.store.Lying(d); lies {
		if c.rebuild.on.Load() {
			return nil, errUnbacked // its turn to be proven comes
		}
		if err := c.store.RemoveLying(d, 0); err != nil { // nobody counts it
			c.diskFailed("removing a file without a record", err)
			return nil, err
		}
	}
	if size < 0 {
		size = unknownStep
	}
	res, err := c.store.Reserve(ctx, size)
	if err != nil {
		c.diskFailed("reserving space", err)
		return nil, err
	}
	defer func() {
		if in == nil {
			res.Release() // if it panicked; else it is released
		}
	}()
	create := c.store.Create
	if public {
		create = c.store.CreatePublic
	}
	if in, err = create(d, res); err != nil {
		c.diskFailed("creating a file", err)
	}
	return in, err
}

// unknownStep is reserved at a time for a blob of unknown length.
const unknownStep = 8 << 20

// pour copies the stream into the file, hashing, and tells the readers.
func (c *Cache) pour(f *fill, s *stream, saved *saver, h hash.Hash) error {
	buf := c.chunks.Get().(*[chunk]byte)
	defer c.chunks.Put(buf)
	in := saved.in
	for {
		n, err := s.Read(buf[:])
		if n > 0 {
			have := in.Front()
			werr := c.onDisk(func() { c.unback(f, nil, h, have) }, func() error {
				_, err := in.Write(buf[:n])
				return err
			})
			if werr != nil {
				c.diskFailed("writing a blob", werr)
				if !errors.Is(werr, errStalled) {
					c.unback(f, nil, h, have)
				}
				return errUnbacked
			}
			h.Write(buf[:n])
			f.Add(0, in.Front())
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := saved.step(s.size); err != nil {
			c.diskFailed("syncing a fill", err)
			c.unback(f, nil, h, in.Front())
			return errUnbacked
		}
	}
}

// abandoned tells whether a fill was stopped because nobody read it.
func (c *Cache) abandoned(f *fill) bool { return f.ctx.Err() != nil && c.ctx.Err() == nil }

// letGo ends an open flight at a byte up to which the hash is known: whoever
// has joined in the very moment in which it was stopped goes on from there.
func (f *fill) letGo(h hash.Hash, at int64) error {
	f.at, f.hash = at, h
	f.Fail(errUnbacked)
	return errUnbacked
}

// unback lets the readers go on without the disk. A stream that nothing was
// read from yet is left to the first of them.
func (c *Cache) unback(f *fill, s *stream, h hash.Hash, at int64) {
	c.stats.unbacked.Add(1)
	f.at, f.hash = at, h
	if s != nil {
		f.Open(s.size)
		spare := *s
		spare.cancel, f.cancel = f.cancel, func() {}
		f.spare.Store(&spare)
		s.body = nil
	}
	f.Fail(errUnbacked)
	if f.Readers() == 0 {
		f.dropSpare()
	}
}

// dropSpare closes the stream that no reader has taken over.
func (f *fill) dropSpare() {
	if s := f.spare.Swap(nil); s != nil {
		s.end()
	}
}
