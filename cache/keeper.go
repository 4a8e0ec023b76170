package cache

import (
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"cistern/cache/index"
	"cistern/internal/oci"
)

const (
	// checkpointEvery bounds what a power cut can cost: a second's blobs.
	checkpointEvery = time.Second
	// checkpointAt is how many new blobs do not wait for the second to end.
	checkpointAt = 512
	// touchesAt is how many uses go into one transaction.
	touchesAt = 1000
)

// hurry asks for a checkpoint now.
func (c *Cache) hurry() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// keep makes checkpoints until the cache closes, and a last one then.
func (c *Cache) keep() {
	defer c.loops.Done()
	t := time.NewTicker(checkpointEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-c.wake:
		case <-c.stop:
			c.checkpoint()
			return
		}
		c.checkpoint()
	}
}

// checkpoint puts what is new on stable storage: the files of new blobs, then,
// in one transaction, their records with uses, tags and grants. A record in the
// index therefore means: verified, and on stable storage. A file whose fsync
// fails is dropped, never tried again (FAULTS 0.4).
func (c *Cache) checkpoint() {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("a checkpoint panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		}
	}()
	fresh := c.freshBlobs()
	if len(fresh) > 0 {
		failed := c.store.Sync(fresh)
		fresh = c.without(fresh, failed)
	}
	c.commit.Lock()
	defer c.commit.Unlock()
	b := c.batch(fresh)
	if len(b.Put)+len(b.Touch)+len(b.PutTags)+len(b.DeleteTags)+len(b.PutGrants) == 0 {
		return
	}
	before := c.index.Footprint()
	if err := c.index.Apply(b); err != nil {
		c.indexFailed(err)
		return
	}
	c.store.AddUsed(c.index.Footprint() - before)
	for _, rec := range b.Put {
		if err := c.store.Promote(rec.Digest); err != nil {
			c.diskFailed("renaming a blob", err) // it is found in fills/ all the same
		}
	}
	c.stats.checkpoints.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rec := range b.Put {
		delete(c.pending, rec.Digest)
	}
}

func (c *Cache) freshBlobs() []oci.Digest {
	c.mu.Lock()
	defer c.mu.Unlock()
	ds := make([]oci.Digest, 0, len(c.pending))
	for d := range c.pending {
		ds = append(ds, d)
	}
	return ds
}

// without drops the blobs whose files could not be synced.
func (c *Cache) without(ds []oci.Digest, failed map[oci.Digest]error) []oci.Digest {
	kept := ds[:0]
	for _, d := range ds {
		err, bad := failed[d]
		if !bad {
			kept = append(kept, d)
			continue
		}
		c.diskFailed("syncing a blob", err)
		c.mu.Lock()
		rec, ok := c.pending[d]
		c.mu.Unlock()
		if ok {
			c.drop(rec)
		}
	}
	return kept
}

// batch collects what the next transaction writes. It takes uses, tags and
// grants out of memory; the blobs stay pending until they are recorded.
func (c *Cache) batch(fresh []oci.Digest) index.Batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b index.Batch
	for _, d := range fresh {
		rec, ok := c.pending[d]
		if !ok {
			continue // evicted meanwhile
		}
		if at, ok := c.touched[d]; ok {
			rec.LastUsed = at
			delete(c.touched, d)
		}
		b.Put = append(b.Put, rec)
	}
	b.Touch = make(map[oci.Digest]time.Time, min(len(c.touched), touchesAt))
	for d, at := range c.touched {
		if len(b.Touch) == touchesAt {
			break
		}
		if _, waits := c.pending[d]; !waits {
			b.Touch[d] = at
			delete(c.touched, d)
		}
	}
	for _, t := range c.newTags {
		b.PutTags = append(b.PutTags, t)
	}
	for ref := range c.goneTags {
		b.DeleteTags = append(b.DeleteTags, ref)
	}
	for k, at := range c.newGrant {
		b.PutGrants = append(b.PutGrants, index.Grant{Repository: k.repo, Digest: k.digest, At: at})
	}
	clear(c.newTags)
	clear(c.goneTags)
	clear(c.newGrant)
	return b
}

