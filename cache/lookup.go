package cache

import (
	"errors"
	"io"
	"io/fs"
	"time"

	"go.uber.org/zap"

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

// findStored is find without the memory.
func (c *Cache) findStored(d oci.Digest) (index.Record, bool) {
	if c.store == nil {
		return index.Record{}, false
	}
	c.mu.Lock()
	p, ok := c.pending[d]
	c.mu.Unlock()
	if ok {
		return p, true
	}
	rec, ok, err := c.index.Get(d)
	if err != nil {
		c.indexFailed(err)
		return index.Record{}, false
	}
	return rec, ok
}

// openStored opens the file of a record. A file that is absent or of another
// size is a miss with a reason: its record is dropped, so that the blob is
// fetched again.
func (c *Cache) openStored(rec index.Record) (*blob.File, bool) {
	f, err := c.store.OpenFile(rec.Digest)
	if err == nil && f.Size == rec.Size {
		return f, true
	}
	if err == nil {
		f.Close()
		err = errors.New("its size is not what was recorded")
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, again := c.findStored(rec.Digest); !again {
			return nil, false // evicted between the look-up and the open
		}
	}
	c.log.Warn("a cached blob is damaged and will be fetched again", zap.Stringer("digest", rec.Digest), zap.Error(err))
	c.drop(rec)
	return nil, false
}

// drop removes a blob, recorded or pending, with what is known of it.
func (c *Cache) drop(rec index.Record) {
	c.commit.Lock()
	defer c.commit.Unlock()
	c.forget(rec.Digest)
	if c.store == nil {
		return
	}
	if err := c.store.Remove(rec.Digest, rec.Allocated); err != nil {
		c.log.Warn("removing a blob", zap.Error(err))
	}
	c.apply(index.Batch{Delete: []oci.Digest{rec.Digest}})
}

// forget takes a digest out of the sets in memory.
func (c *Cache) forget(d oci.Digest) {
	c.hot.remove(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, d)
	delete(c.touched, d)
}

// touch notes a use. It reaches the index with a later checkpoint: a hit never
// waits for a commit.
func (c *Cache) touch(d oci.Digest, now time.Time) {
	if c.store == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touched[d] = now
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
	rec, ok := c.findStored(d)
	if !ok || rec.Size > limit {
		return nil, rec, false
	}
	f, ok := c.openStored(rec)
	if !ok {
		return nil, rec, false
	}
	defer f.Close()
	data := make([]byte, rec.Size)
	if _, err := io.ReadFull(f, data); err != nil || !d.Verify(data) {
		c.log.Warn("a cached blob is damaged and will be fetched again", zap.Stringer("digest", d), zap.Error(err))
		c.drop(rec)
		return nil, rec, false
	}
	c.touch(d, time.Now())
	if rec.Size <= maxHot {
		c.hot.add(rec, data)
	}
	return data, rec, true
}

// indexFailed notes that the index failed. One that is broken stays so until a
// restart; a full disk is tried again with the next checkpoint.
func (c *Cache) indexFailed(err error) {
	if c.index.Broken() == nil {
		c.diskFailed("writing the index", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.degraded == "" {
		c.degraded = "the index failed: " + err.Error()
		c.log.Error("the index failed: nothing new is kept on disk until a restart", zap.Error(err))
	}
}

// keeping tells whether new blobs may be kept on disk.
func (c *Cache) keeping() bool {
	if c.store == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.degraded == ""
}
