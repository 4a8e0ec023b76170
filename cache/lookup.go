package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// find tells what is known of a whole blob, wherever it is. A broken index is
// a miss: the daemon serves on.
func (c *Cache) find(d oci.Digest) (index.Record, bool) {
	if e, ok := c.hot.get(d); ok {
		return e.rec, true
	}
	return c.findStored(d)
}

// openStored opens the file of a record. A file that is absent or of another
// size is a miss with a reason: its record is dropped, so that the blob is
// fetched again.
func (c *Cache) openStored(rec index.Record) (*blob.File, bool) {
	f, err := c.store.OpenFile(rec.Digest)
	if err == nil && f.Fill {
		// The blob may be gone since it was looked up, and fetched anew: then
		// this is a fill that nobody has verified, whatever its size.
		if _, stands := c.current(rec); !stands {
			f.Close()
			return nil, false
		}
	}
	if err == nil && f.Size == rec.Size {
		return f, true
	}
	if short(err) {
		return nil, false
	}
	if err == nil {
		f.Close()
		c.spoil(rec, flaw{fmt.Errorf("its file has %d bytes of %d", f.Size, rec.Size), min(f.Size, rec.Size), false})
		return nil, false
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, again := c.findStored(rec.Digest); !again {
			return nil, false // evicted between the look-up and the open
		}
	}
	c.damaged(rec, err)
	return nil, false
}

// short tells from an error that this process or machine has too little of
// something at the moment, which says nothing of the file.
func short(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// damaged drops a blob whose file is not what its record says.
func (c *Cache) damaged(rec index.Record, why error) { c.spoil(rec, flaw{why, unknown, false}) }

// drop removes a blob, recorded or pending, with what is known of it, and gives
// its record as it was; false if somebody else has removed it since rec was
// read, who gave its space back already, or if the disk refuses, or if it is intact and
// pinned, by now.
func (c *Cache) drop(rec index.Record, why index.Why) (index.Record, bool) {
	if c.store == nil {
		return rec, false
	}
	c.files.Lock()
	defer c.files.Unlock()
	rec, ok := c.current(rec)
	if !ok || why != index.Damaged && c.pins.keeps(rec.Digest) {
		return rec, false
	}
	if err := c.removeFile(rec, why); err != nil {
		c.diskFailed("removing a blob", err)
		return rec, false
	}
	c.forget(rec, why)
	return rec, true
}

// dropSurely is drop that finds out what is pinned, as long as that keeps it from knowing.
func (c *Cache) dropSurely(rec index.Record, why index.Why) (index.Record, bool) {
	for range maxRounds {
		if now, ok := c.drop(rec, why); ok || c.pins.settled() {
			return now, ok
		}
		c.repin()
	}
	return rec, false
}

// current gives the record that stands where rec was read; false if the blob is
// gone since, or was fetched anew. Who changes it holds files.
func (c *Cache) current(rec index.Record) (index.Record, bool) {
	now, ok := c.findStored(rec.Digest)
	return now, ok && now.FirstSeen.Equal(rec.FirstSeen)
}

// touchHot is touch for an entry in memory, at most once a second: the lock
// would be the dearest part of a small hit.
func (c *Cache) touchHot(e *hotEntry) {
	now := time.Now()
	if last := e.touched.Load(); now.Unix() > last && e.touched.CompareAndSwap(last, now.Unix()) {
		c.touch(e.rec.Digest, now)
	}
}

// small gives a small object's bytes and record, from memory or disk. It reads
// at most limit bytes; what is larger is not small.
func (c *Cache) small(d oci.Digest, limit int64) ([]byte, index.Record, bool) {
	if e, ok := c.hot.get(d); ok {
		c.touchHot(e)
		return e.data, e.rec, true
	}
	data, rec, ok := c.readSmall(d, limit)
	if !ok {
		return nil, rec, false
	}
	c.touch(d, time.Now())
	if rec.Size <= maxHot {
		c.hot.add(rec, data)
		// It may be gone, or have another label, since it was looked up: then
		// whoever changed that has removed it here already.
		if now, ok := c.current(rec); !ok || now.Class != rec.Class || now.MediaType != rec.MediaType || now.Public != rec.Public {
			c.hot.remove(d)
		}
	}
	return data, rec, true
}

// peek is small for who only looks: it is no use of the object.
func (c *Cache) peek(d oci.Digest) ([]byte, index.Record, bool) {
	if e, ok := c.hot.get(d); ok {
		return e.data, e.rec, true
	}
	return c.readSmall(d, maxManifest)
}

// readSmall reads an object of at most limit bytes from disk.
func (c *Cache) readSmall(d oci.Digest, limit int64) ([]byte, index.Record, bool) {
	rec, ok := c.findStored(d)
	if !ok {
		rec, ok = c.proveNow(d, limit)
	}
	if !ok || rec.Size > limit {
		return nil, rec, false
	}
	f, ok := c.openStored(rec)
	if !ok {
		return nil, rec, false
	}
	defer f.Close()
	data := make([]byte, rec.Size)
	if _, err := io.ReadFull(f, data); err != nil {
		c.damaged(rec, err)
		return nil, rec, false
	}
	if !d.Verify(data) {
		c.damaged(rec, errMismatch)
		return nil, rec, false
	}
	return data, rec, true
}

// indexFailed notes that the index failed. A broken one is replaced by the next
// checkpoint; until then, what lies on disk is proven by its digest. Anything
// else, a full disk, is tried again with the next checkpoint.
func (c *Cache) indexFailed(err error) {
	if c.idx.Load().Broken() == nil {
		c.diskFailed("writing the index", err)
		return
	}
	c.rebuild.on.Store(true)
	c.hurry()
}

// keeping tells whether new blobs may be kept on disk: not while nobody knows
// how much lies there, nor while the disk does not come back from a write.
func (c *Cache) keeping() bool {
	if c.store == nil || c.rebuild.counting.Load() || c.stalls.Load() > 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.degraded == ""
}
