package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
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
		now, made := time.Now(), f.Made
		if made.After(now) {
			made = now
		}
		rec = index.Record{
			MediaType: oci.MediaTypeOctetStream, Class: index.ClassOf(f.Size, false),
			FirstSeen: made, LastUsed: roughly(made, now), Public: f.Public,
		}
	}
	rec.Digest, rec.Size, rec.Allocated = f.Digest, f.Size, f.Allocated
	return rec
}

// roughly rounds a time down by a 32nd of its age at most. When a file was used
// nobody knows; that it was made then is a guess. In the index, files of one time
// lie in the order of their digests, in which they are met: to each time belongs
// one page that grows. With times as they are, each file changes another page.
func roughly(t, now time.Time) time.Time {
	step := uint64(max(now.Sub(t)/64, 0))
	return t.Truncate(time.Duration(1) << bits.Len64(step))
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
		c.gone[d] = departed{class: rec.Class, allocated: rec.Allocated, recorded: true, unsynced: true}
	}
}

const (
	// provenAtOnce is how many files are handed to who proves them.
	provenAtOnce = 64
	// recordAt is how many proven files do not wait for the second to end: what
	// one transaction takes. Of twice as many the proving waits for the disk.
	recordAt = 1000
	// tellEvery is how often the log says how far it has come.
	tellEvery = 10 * time.Second
)

// proveAll proves each file in blobs/ that has no record. It tells whether it
// came to the end, and left none behind. One goroutine walks, folder by folder;
// some prove; and while they do, the keeper records what they have proven.
func (c *Cache) proveAll() bool {
	var g errgroup.Group
	var left atomic.Bool
	work := make(chan []blob.Found)
	for range c.provers() {
		g.Go(func() error {
			for some := range work {
				for _, f := range some {
					if !c.proveOne(f) {
						left.Store(true)
					}
				}
			}
			return nil
		})
	}
	walked := c.walkLying(work)
	close(work)
	return g.Wait() == nil && walked && !left.Load() && c.ctx.Err() == nil
}

// provers is how many files are hashed at once: as many as there are processors,
// of which GOMAXPROCS is twice as many as a rule. With more of them hits wait.
func (c *Cache) provers() int { return min(4, max(1, runtime.GOMAXPROCS(0)/2)) }

// walkLying hands out what lies in blobs/ without a record. False if it did not
// come to the end: the disk or the index fails, or the cache closes.
func (c *Cache) walkLying(work chan<- []blob.Found) bool {
	told := time.Now()
	for folder, err := range c.store.Blobs() {
		if err != nil {
			c.diskFailed("looking through the blobs", err)
			return false
		}
		if time.Since(told) > tellEvery {
			told = time.Now()
			p := c.rebuild.progress()
			c.log.Info("blobs are hashed and recorded", zap.Int64("hashed", p.Hashed), zap.Int64("files", p.Files), zap.Int64("damaged", p.Damaged))
		}
		known, i := c.known(folder), -1
		folder = slices.DeleteFunc(folder, func(blob.Found) bool { i++; return known[i] })
		for some := range slices.Chunk(folder, provenAtOnce) {
			if c.waiting() >= 2*recordAt && !c.checkpoint() || c.idx.Load().Broken() != nil {
				return false // nobody takes records
			}
			select {
			case work <- some:
			case <-c.ctx.Done():
				return false
			}
		}
	}
	return true
}

// known is findStored for a folder of files.
func (c *Cache) known(folder []blob.Found) []bool {
	ds := make([]oci.Digest, len(folder))
	for i, f := range folder {
		ds[i] = f.Digest
	}
	known, err := c.idx.Load().Known(ds)
	if err != nil {
		c.indexFailed(err)
	}
	for i, d := range ds {
		c.mu.Lock() // not for all at once: hits take it
		if _, here, gone := c.recentLocked(d); here || gone {
			known[i] = here
		}
		c.mu.Unlock()
	}
	return known
}

// waiting is how many blobs wait for their record.
func (c *Cache) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// proveOne proves a file that was met in blobs/. False if it is to be met again:
// there is no descriptor for it, or the disk stalls.
func (c *Cache) proveOne(f blob.Found) bool {
	switch {
	case c.ctx.Err() != nil:
		return false
	case f.Size > maxCollect:
		c.proveByFill(f.Digest)
	case c.proveLying(f.Digest):
		if c.waiting() >= recordAt {
			c.hurry()
		}
		return true
	}
	_, proven := c.findStored(f.Digest)
	_, lies := c.store.Lying(f.Digest)
	why, _ := c.rebuild.unfit.has(f.Digest)
	return proven || !lies || why != nil
}

// proveLying proves a file in blobs/, or waits for whoever is at it. It tells
// whether that came to an end.
func (c *Cache) proveLying(d oci.Digest) bool {
	done, _, _ := c.proving.Do(d.String(), func() (any, error) {
		return c.proveFile(d), nil
	})
	return done.(bool)
}

// proveFile reads a file in blobs/ and makes it a blob if it is what its name
// says; what is not is set aside, and what cannot be read is left alone. False if
// nothing came of it, and its turn comes again.
func (c *Cache) proveFile(d oci.Digest) (done bool) {
	if !c.claim(d) {
		return false // it is being fetched
	}
	defer c.release(d)
	defer func() {
		if p := recover(); p != nil {
			c.panicked("proving a blob", p)
		}
	}()
	if _, known := c.findStored(d); known {
		return true
	}
	f, intact, err := c.intact(d)
	if errors.Is(err, fs.ErrNotExist) { // or what is there is not ours
		c.store.AddUsed(-c.rebuild.unfit.takeLeft(d))
		return true
	}
	if short(err) || err != nil && c.ctx.Err() != nil {
		return false
	}
	c.rebuild.hashed.Add(1)
	why := "it cannot be read"
	if intact && !f.Lasting {
		err, why = c.store.SyncLying(d), "it cannot be put on stable storage"
	}
	if err == nil && intact {
		c.rebuild.unfit.takeLeft(d)
		c.regrant(d)
		c.rebuild.noteEarly(d)
		c.admitPlaced(c.labelled(f))
		return true
	}
	if c.rebuild.counting.Load() {
		return false // it may not be counted yet, and its turn comes
	}
	if err != nil {
		c.leave(f, fmt.Errorf("%s: %w", why, err)) // the disk may give it another day
	} else {
		c.disown(f)
	}
	return true
}

// intact hashes a file in blobs/, as long as it is when it is opened: whoever
// opens it later looks at its size.
func (c *Cache) intact(d oci.Digest) (f blob.Found, intact bool, err error) {
	file, f, err := c.store.OpenLying(d)
	if err != nil {
		f, _ = c.store.Lying(d) // what it takes, if it is removed
		return f, false, err
	}
	defer file.Close()
	h, buf := d.Hash(), c.chunks.Get().(*[chunk]byte)
	defer c.chunks.Put(buf)
	if _, err := io.CopyBuffer(h, &stoppable{c.ctx, io.LimitReader(file, f.Size)}, buf[:]); err != nil {
		return f, false, err
	}
	return f, d.Matches(h), nil
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
// likely will be: by whoever asks for it, if not before. size is what its
// manifest says.
func (c *Cache) provable(d oci.Digest, size int64) bool {
	if c.store == nil || c.store.ReadOnly() {
		return false
	}
	if c.doubtful(d, math.MaxInt64) || c.lies(d) {
		return true
	}
	// A large one is proven where fills lie, and the whole of one may lie there.
	if left := c.store.Left(d); left > 0 && left == size {
		return true
	}
	if c.lies(d) {
		return true // moved from the one place to the other between two looks
	}
	_, proven := c.findStored(d)
	return proven // since it was looked up
}

// lies tells whether a file without a record may be in blobs/, and is.
func (c *Cache) lies(d oci.Digest) bool {
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
		f := c.newFill(Repository{}, d, nil, 1)
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
