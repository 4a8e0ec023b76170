package cache

import (
	"io"
	"time"

	"go.uber.org/zap"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// rebuild takes up the files of a cache whose index was lost: each is hashed
// again, and recorded if it is what its name says. Nobody waits for it. What it
// takes up is private, with no grants, until an upstream's word makes it
// otherwise: who may read what was in the index.
func (c *Cache) rebuild() {
	defer c.work.Done()
	var found, bad int
	for f, err := range c.store.Blobs() {
		if c.ctx.Err() != nil {
			return
		}
		if err != nil {
			c.diskFailed("looking through the blobs", err)
			return
		}
		if _, known := c.find(f.Digest); known {
			continue
		}
		c.store.AddUsed(f.Allocated)
		rec := index.Record{Digest: f.Digest, Size: f.Size, Allocated: f.Allocated, MediaType: oci.MediaTypeOctetStream,
			Class: index.ClassOf(f.Size, false), FirstSeen: time.Now(), LastUsed: time.Now()}
		if !c.intact(rec) {
			bad++
			c.drop(rec)
			continue
		}
		found++
		c.commit.Lock()
		ok := c.apply(index.Batch{Put: []index.Record{rec}})
		c.commit.Unlock()
		if !ok {
			return
		}
	}
	if found+bad > 0 {
		c.log.Info("the index is built anew", zap.Int("blobs", found), zap.Int("damaged", bad))
	}
}

// intact hashes a blob's file.
func (c *Cache) intact(rec index.Record) bool {
	f, err := c.store.OpenFile(rec.Digest)
	if err != nil {
		return false
	}
	defer f.Close()
	h := rec.Digest.Hash()
	_, err = io.Copy(h, f.File)
	return err == nil && rec.Digest.Matches(h)
}
