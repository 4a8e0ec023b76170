package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// A file without a record, or with one that may be an earlier blob's, is proven
// by its digest before a byte of it is believed. Small ones are read at once,
// larger ones go through a flight, so that whoever asks reads along.

// errDamaged ends a flight of what lay here and was not the blob.
var errDamaged = fmt.Errorf("what lay in the cache is not the blob: %w", errMismatch)

// label is what the index knew of bytes that are to be proven; false if nothing.
func (c *Cache) label(d oci.Digest) (index.Record, bool) {
	c.mu.Lock()
	rec, ok := c.doubted[d]
	c.mu.Unlock()
	if old := c.rebuild.old.Load(); !ok && old != nil {
		rec, ok = old.Record(d)
	}
	return rec, ok
}

// labelled describes a file that was proven: as the index had it, else as the
// file itself says.
func (c *Cache) labelled(f blob.Found) index.Record {
	rec, ok := c.label(f.Digest)
	if !ok || rec.Size != f.Size {
		made := f.Made
		if now := time.Now(); made.After(now) {
			made = now
		}
		rec = index.Record{MediaType: oci.MediaTypeOctetStream, Class: index.ClassOf(f.Size, false), FirstSeen: made, LastUsed: made, Public: f.Public}
	}
	rec.Digest, rec.Size, rec.Allocated = f.Digest, f.Size, f.Allocated
	return rec
}

// regrant takes over who may have a private blob.
func (c *Cache) regrant(d oci.Digest) {
	old := c.rebuild.old.Load()
	if old == nil {
		return
	}
	for g := range old.Grants(d) {
		c.grant(g.Repository, d)
	}
}

// proveDoubted proves what settle has doubted, in the background.
func (c *Cache) proveDoubted() {
	if len(c.doubted) == 0 || !c.begin() {
		return
	}
	var all []oci.Digest
	for d := range c.doubted {
		all = append(all, d)
	}
	go func() {
		defer c.work.Done()
		for _, d := range all {
			c.proveByFill(d)
		}
	}()
}

// undoubt gives a doubted file up: it is gone, and so must its record be.
func (c *Cache) undoubt(d oci.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rec, ok := c.doubted[d]; ok {
		delete(c.doubted, d)
		c.gone[d] = departed{rec.Class, rec.Allocated, true, true}
	}
}

// proveAll proves each file in blobs/ that has no record. It tells whether it
// came to the end, and left none behind.
func (c *Cache) proveAll() bool {
	var g errgroup.Group
	var left atomic.Bool
	prove := func(d oci.Digest, by func(oci.Digest)) {
		by(d)
		_, proven := c.findStored(d)
		if _, lies := c.store.Lying(d); lies && !proven { // no descriptor for it, or the disk stalls
			left.Store(true)
		}
	}
	g.SetLimit(min(4, runtime.GOMAXPROCS(0)))
	defer func() { _ = g.Wait() }() // what fails is counted and logged where it does
	for f, err := range c.store.Blobs() {
		if c.ctx.Err() != nil {
			return false
		}
		if err != nil {
			c.diskFailed("looking through the blobs", err)
			return false
		}
		if _, known := c.findStored(f.Digest); known {
			continue
		}
		if f.Size > maxCollect {
			prove(f.Digest, c.proveByFill)
		} else {
			g.Go(func() error {
				prove(f.Digest, c.proveLying)
				return nil
			})
		}
		if c.waiting() >= checkpointAt {
			c.checkpoint()
		}
		if c.idx.Load().Broken() != nil {
			return false // nobody takes records
		}
	}
	return g.Wait() == nil && !left.Load() && c.ctx.Err() == nil
}

// waiting is how many blobs wait for their record.
func (c *Cache) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// proveLying proves a file in blobs/, or waits for whoever is at it.
func (c *Cache) proveLying(d oci.Digest) {
	_, _, _ = c.proving.Do(d.String(), func() (any, error) { // it gives nothing
		c.proveFile(d)
		return nil, nil
	})
}

// proveFile reads a file in blobs/ and makes it a blob if it is what its name
// says; what is not goes.
func (c *Cache) proveFile(d oci.Digest) {
	if !c.claim(d) {
		return // it is being fetched
	}
	defer c.release(d)
	defer func() {
		if p := recover(); p != nil {
			c.panicked("proving a blob", p)
		}
	}()
	f, ok := c.store.Lying(d)
	if _, known := c.findStored(d); known || !ok {
		return
	}
	intact, err := c.intact(f)
	if short(err) || err != nil && c.ctx.Err() != nil {
		return
	}
	c.rebuild.hashed.Add(1)
	if intact && c.store.Moved() {
		err = c.store.SyncLying(d)
	}
	if err == nil && intact {
		c.regrant(d)
		c.rebuild.noteEarly(d)
		c.admitPlaced(c.labelled(f))
		return
	}
	if c.rebuild.counting.Load() {
		return // it may not be counted yet, and its turn comes
	}
	c.rebuild.damaged.Add(1)
	if err := errors.Join(err, c.store.RemoveLying(d, f.Allocated)); err != nil {
		c.diskFailed("proving a blob", err)
	}
}

// intact hashes a file in blobs/.
func (c *Cache) intact(f blob.Found) (bool, error) {
	file, err := c.store.OpenFile(f.Digest)
	if err != nil {
		return false, err
	}
	defer file.Close()
	h, buf := f.Digest.Hash(), c.chunks.Get().(*[chunk]byte)
	defer c.chunks.Put(buf)
	if _, err := io.CopyBuffer(h, &stoppable{c.ctx, file.File}, buf[:]); err != nil {
		return false, err
	}
	return f.Digest.Matches(h), nil
}

// mostUnrecorded bounds what is served without an index, where none can be
// made: it is in memory.
const mostUnrecorded = 1 << 16

// proveNow proves an object that is asked for, and gives its record: a small
// one, or any while no fill may use the disk.
func (c *Cache) proveNow(d oci.Digest, most int64) (index.Record, bool) {
	if c.store == nil {
		return index.Record{}, false
	}
	if c.doubtful(d, most) {
		c.proveByFill(d)
		return c.findStored(d)
	}
	if !c.rebuild.on.Load() {
		return c.findStored(d) // the proof may have ended since it was looked up
	}
	if f, ok := c.store.Lying(d); !ok || f.Size > most && c.keeping() || c.waiting() > mostUnrecorded {
		return index.Record{}, false
	}
	c.proveLying(d)
	return c.findStored(d)
}

// provable tells whether something lies here that is yet to be proven, and most
// likely will be: by whoever asks for it, if not before.
func (c *Cache) provable(d oci.Digest) bool {
	if c.doubtful(d, math.MaxInt64) {
		return true
	}
	if !c.rebuild.on.Load() {
		return false
	}
	_, lies := c.store.Lying(d)
	return lies
}

// doubtful tells whether settle has doubted an object of that size at most.
func (c *Cache) doubtful(d oci.Digest, most int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec, ok := c.doubted[d]
	return ok && rec.Size <= most
}

// proveByFill proves a file by a flight that asks nobody upstream, and waits for
// its end. A flight that came to nothing may have met a request that proves the
// file in place: that has to end, too, while there are labels.
func (c *Cache) proveByFill(d oci.Digest) {
	defer func() {
		if _, known := c.findStored(d); !known {
			c.proveLying(d)
		}
	}()
	f, ok := c.flights.Join(d, func() (*fill, bool) {
		if !c.begin() {
			return nil, false
		}
		f := c.newFill(Repository{}, d, 1)
		f.proof = true
		go c.run(f)
		return f, true
	})
	if !ok {
		return
	}
	r := f.Join()
	if r == nil {
		return // it has just come to its end
	}
	defer r.Close()
	// It may be somebody's pull by now: whatever comes of it is as good.
	_, _ = r.Wait(c.ctx, math.MaxInt64)
}

// stoppable reads until its context ends: whoever closes does not wait for
// gigabytes to be hashed.
type stoppable struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (s *stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}
