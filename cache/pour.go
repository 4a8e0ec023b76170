package cache

import (
	"context"
	"errors"
	"hash"
	"time"

	"cistern/cache/blob"
	"cistern/internal/oci"
)

// collect takes a small blob into memory, answers from there, and stores it
// after that.
func (c *Cache) collect(f *fill, s *stream) error {
	size := s.size
	f.supply.begins()
	defer f.supply.ends()
	f.supply.from(s.body.Host)
	f.data = c.memory(f, size)
	t := time.AfterFunc(collectFor, func() { f.Open(size) })
	defer t.Stop()
	for have := 0; have < len(f.data); {
		n, err := s.Read(f.data[have:])
		if err != nil {
			return err
		}
		have += n
		c.got(f, n)
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
	in, err := c.ingest(f, s, left)
	switch {
	case errors.Is(err, errStalled):
		return nil
	case err != nil:
		c.unback(f, s, f.digest.Hash(), 0)
		return nil
	}
	f.in = in
	f.Open(s.size)
	for _, r := range in.Ranges() {
		f.Add(r.Off, r.End)
	}
	p := c.newFetch(f, in, s.size, left)
	err = p.run(s)
	switch {
	case err != nil:
	case p.sum.matches():
		if p.saved.runs() {
			f.Done() // nobody waits for what is still being synced
		}
	default:
		err = errMismatch
	}
	if serr := p.saved.wait(); serr != nil {
		c.diskFailed("syncing a fill", serr)
		c.abort(in) // its content is unknown now
		return err
	}
	switch {
	case err == nil:
		return c.finish(f, in)
	case errors.Is(err, errUnbacked), errors.Is(err, errMismatch):
		c.abort(in)
	default:
		c.keepPartial(in)
	}
	return err
}

// newFetch makes what brings the rest of a fill.
func (c *Cache) newFetch(f *fill, in *blob.Ingest, size int64, left *leftover) *fetch {
	p := &fetch{
		c: c, f: f, in: in, sum: &prefix{d: f.digest, hash: f.digest.Hash()}, saved: &saver{in: in},
		plan: plan{size: size, most: f.repo.streams()}, ended: make(chan *job), wake: make(chan struct{}, 1),
		stuck: map[int64]int{}, whole: len(f.asks) == 0,
	}
	p.saved.over, p.saved.last = p.poke, time.Now()
	p.saved.due.Store(f.Bytes() + saveStep)
	if left != nil {
		p.sum.hash, p.sum.at = left.hash, left.hashed
	}
	return p
}

// ingest opens the file that a fill grows in. After errStalled its readers go on
// without it already.
func (c *Cache) ingest(f *fill, s *stream, left *leftover) (in *blob.Ingest, err error) {
	if left == nil {
		if !f.alone || !c.keeping() {
			return nil, errUnbacked
		}
		h := f.digest.Hash()
		err = c.onDisk(func() { c.unback(f, s, h, 0) }, func() error {
			in, err = c.createFor(f, s)
			return err
		})
		if errors.Is(err, errStalled) && in != nil {
			c.abort(in)
		}
		return in, err
	}
	return left.in, nil
}

// createFor makes the file of a fill: with room for all of it, or for what s brings
// of it.
func (c *Cache) createFor(f *fill, s *stream) (in *blob.Ingest, err error) {
	part := s.size >= 0 && !s.whole()
	room := s.size
	if part {
		room = 0
	}
	in, err = c.create(f.ctx, f.digest, room, !f.private)
	if err != nil || !part {
		return in, err
	}
	in.Track(s.size)
	if s.body != nil {
		err = in.Extend(f.ctx, s.off, s.last()-s.off)
	}
	if err == nil && s.off > 0 {
		err = in.Sparse(f.ctx)
	}
	if err != nil {
		c.diskFailed("creating a file", err)
		c.abort(in)
	}
	return in, err
}

// create makes the file of a blob of so many bytes, -1 if that is not known.
func (c *Cache) create(ctx context.Context, d oci.Digest, size int64, public bool) (in *blob.Ingest, err error) {
	// A file without a record would be found in place of the new one.
	if _, lies := c.store.Lying(d); lies {
		if c.rebuild.on.Load() {
			return nil, errUnbacked // its turn to be proven comes
		}
		counted := c.rebuild.unfit.takeLeft(d) // 0: nobody counts it
		if err := c.store.RemoveLying(d, counted); err != nil {
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

// unback lets the readers go on without the disk. A stream that nothing was
// read from yet is left to the first of them.
func (c *Cache) unback(f *fill, s *stream, h hash.Hash, at int64) {
	c.stats.unbacked.Add(1)
	f.untaken.Store(true)
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
