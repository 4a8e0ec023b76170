package cache

import (
	"maps"
	"runtime/debug"
	"slices"
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
	// touchesKept bounds the uses that wait for a transaction: a few megabytes.
	// Beyond it the order of use is a little wrong.
	touchesKept = 1 << 16
	// touchAge is how old a recorded use must be to be worth replacing, at the
	// least; where blobs live long, much older ones still give the right order.
	touchAge = 10 * time.Second
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
	c.syncing.Lock()
	defer c.syncing.Unlock()
	synced := c.syncFresh()
	c.commit.Lock()
	defer c.commit.Unlock()
	b := c.batch(synced)
	if len(b.Put)+len(b.Touch)+len(b.PutTags)+len(b.DeleteTags)+len(b.PutGrants) == 0 {
		return
	}
	if !c.apply(b) {
		c.putBack(b)
		return
	}
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

// apply writes a batch and accounts for what the index grew by. commit is held.
func (c *Cache) apply(b index.Batch) bool {
	before := c.index.Footprint()
	err := c.index.Apply(b)
	c.store.AddUsed(c.index.Footprint() - before)
	if err != nil {
		c.indexFailed(err)
	}
	return err == nil
}

// syncFresh puts the files of what is pending on stable storage and gives the
// records that this is now true of. A digest that is evicted and fetched again
// meanwhile has another record, of a file that was not synced.
func (c *Cache) syncFresh() map[oci.Digest]index.Record {
	c.mu.Lock()
	fresh := maps.Clone(c.pending)
	c.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	for d, err := range c.store.Sync(slices.Collect(maps.Keys(fresh))) {
		if _, dropped := c.drop(fresh[d]); dropped { // else it was evicted meanwhile
			c.diskFailed("syncing a blob", err)
		}
		delete(fresh, d)
	}
	return fresh
}

// putBack returns tags and grants that a full disk did not take, for the next
// checkpoint. What a broken index did not take is lost: nothing will take it.
func (c *Cache) putBack(b index.Batch) {
	if c.index.Broken() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range b.PutTags {
		_, newer := c.newTags[t.Reference]
		if _, gone := c.goneTags[t.Reference]; !newer && !gone {
			c.newTags[t.Reference] = t
		}
	}
	for _, ref := range b.DeleteTags {
		if _, newer := c.newTags[ref]; !newer {
			c.goneTags[ref] = struct{}{}
		}
	}
	for _, g := range b.PutGrants {
		c.newGrant[grantKey{g.Repository, g.Digest}] = g.At
	}
}

// batch collects what the next transaction writes. It takes uses, tags and
// grants out of memory; the blobs stay pending until they are recorded.
func (c *Cache) batch(synced map[oci.Digest]index.Record) index.Batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := index.Batch{TouchAge: max(touchAge, time.Duration(c.stats.evictedAge.Load())/32)}
	for d, rec := range synced {
		if c.pending[d] != rec {
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
		if c.recorded(k.digest) {
			b.PutGrants = append(b.PutGrants, index.Grant{Repository: k.repo, Digest: k.digest, At: at})
		}
	}
	clear(c.newTags)
	clear(c.goneTags)
	clear(c.newGrant)
	return b
}

// recorded tells whether a digest has a record, or gets one with this batch:
// the grants of others would never be deleted. Whoever fetches such a digest
// later is granted it then. mu is held.
func (c *Cache) recorded(d oci.Digest) bool {
	if _, ok := c.pending[d]; ok {
		return true
	}
	_, ok, err := c.index.Get(d)
	return ok && err == nil
}
