package cache

import (
	"maps"
	"slices"
	"strings"
	"time"

	"cistern/cache/index"
	"cistern/cache/policy"
	"cistern/internal/oci"
)

const (
	// checkpointEvery bounds what a power cut can cost: a second's blobs.
	checkpointEvery = time.Second
	// checkpointAt is how many new blobs do not wait for the second to end. Each
	// checkpoint syncs the folders of its blobs, all 256 of them if it is large.
	checkpointAt = 4096
	// touchesAt is how many uses go into one transaction: in a large index each
	// changes two pages that no other shares, and takes some 40 KiB of memory for
	// it until the commit. A checkpoint makes touchRounds of them at most, and but
	// one where the disk is slow.
	touchesAt   = 125
	touchRounds = 8
	// touchesKept bounds the uses that wait for a checkpoint: some 150 bytes
	// each. Beyond it the order of use is a little wrong.
	touchesKept = 1 << 13
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
	for n := 1; ; n++ {
		stopped := false
		select {
		case <-t.C:
		case <-c.wake:
		case <-c.stop:
			stopped = true
		}
		c.checkpoint()
		c.calm("keeping the pins", func() bool { return c.keepPins(n) })
		if stopped {
			return
		}
	}
}

// checkpoint puts what is new on stable storage: the files of new blobs, then,
// in one transaction, their records with uses, tags and grants. A record in the
// index therefore means: verified, and on stable storage. A file whose fsync
// fails is dropped, never tried again (FAULTS 0.4). It tells whether all that
// was new then is recorded now.
func (c *Cache) checkpoint() (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked("a checkpoint", p)
			ok = false
		}
	}()
	c.syncing.Lock()
	defer c.syncing.Unlock()
	began := time.Now()
	lost := c.rebuild.lost.Load()
	if !c.renewIndex() || !c.takeUpLost() {
		return false
	}
	left := c.syncGone()
	synced := c.syncFresh()
	b := c.batch(left, synced)
	if !lost && len(b.Delete)+len(b.Departed)+len(b.Put)+len(b.Touch)+len(b.PutTags)+len(b.DeleteTags)+len(b.PutGrants) == 0 {
		return true
	}
	if !c.apply(b) {
		c.putBack()
		return false
	}
	c.applied(b, synced)
	for _, rec := range b.Put {
		c.promote(synced[rec.Digest])
	}
	c.stats.checkpoints.Add(1)
	for n := 1; n < touchRounds && time.Since(began) < checkpointEvery/4; n++ {
		if !c.applyTouches() {
			break
		}
	}
	return true
}

// applyTouches writes uses that no transaction has taken yet; false if there
// are none, or none can be written. syncing is held.
func (c *Cache) applyTouches() bool {
	c.mu.Lock()
	b := index.Batch{TouchAge: c.touchAge()}
	c.takeTouches(&b)
	c.mu.Unlock()
	return len(b.Touch) > 0 && c.apply(b)
}

func (c *Cache) touchAge() time.Duration {
	return policy.TouchAge(time.Duration(c.stats.evictedAge.Load()))
}

// apply writes a batch. syncing is held.
func (c *Cache) apply(b index.Batch) bool {
	err := c.idx.Load().Apply(b)
	if err != nil {
		c.indexFailed(err)
	}
	return err == nil
}

// applied notes what the index knows now.
func (c *Cache) applied(b index.Batch, synced map[oci.Digest]fresh) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving = nil
	for _, rec := range b.Put {
		d := rec.Digest
		if p, ok := c.pending[d]; ok && p.turn == synced[d].turn {
			p.recorded = true
			c.pending[d] = p
		} else if g, ok := c.gone[d]; ok { // evicted meanwhile
			g.recorded = true
			c.gone[d] = g
		}
	}
	for _, t := range b.PutTags {
		if now, ok := c.newTags[t.Reference]; ok && now.Target == t.Target && now.Checked.Equal(t.Checked) {
			delete(c.newTags, t.Reference)
		}
	}
	for _, ref := range b.DeleteTags {
		delete(c.goneTags, ref) // also if it came and went again meanwhile
	}
	for _, g := range b.PutGrants {
		if repos := c.newGrant[g.Digest]; repos[g.Repository].Equal(g.At) {
			if delete(repos, g.Repository); len(repos) == 0 {
				delete(c.newGrant, g.Digest)
			}
		}
	}
}

// promote moves the file of a recorded blob to its place, unless it was evicted
// meanwhile: then a later one of that digest may be growing there.
func (c *Cache) promote(p fresh) {
	c.files.Lock()
	defer c.files.Unlock()
	c.mu.Lock()
	now, ok := c.pending[p.Digest]
	c.mu.Unlock()
	if !ok || now.turn != p.turn {
		return
	}
	if !p.placed {
		if err := c.store.Promote(p.Digest); err != nil {
			c.diskFailed("renaming a blob", err) // it is found in fills/ all the same
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, p.Digest)
}

// syncGone takes what is gone out of memory, makes sure that it is gone for
// good, and gives what may be deleted from the index.
func (c *Cache) syncGone() (left []oci.Digest) {
	c.mu.Lock()
	c.stillGoneLocked(c.leaving) // of a checkpoint that panicked
	c.leaving, c.gone = c.gone, map[oci.Digest]departed{}
	var unsynced []oci.Digest
	for d, g := range c.leaving {
		left = append(left, d)
		if g.unsynced {
			unsynced = append(unsynced, d)
		}
	}
	c.mu.Unlock()
	failed := c.store.SyncRemoved(unsynced)
	if len(failed) == 0 {
		return left
	}
	for _, err := range failed {
		c.diskFailed("making removals durable", err)
		break
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	stay := map[oci.Digest]departed{} // with their records, for now
	for d := range failed {
		stay[d] = c.leaving[d]
		delete(c.leaving, d)
	}
	c.stillGoneLocked(stay)
	return slices.DeleteFunc(left, func(d oci.Digest) bool { return failed[d] != nil })
}

// syncFresh puts the files of what is pending on stable storage and gives the
// records that this is now true of. A digest that is evicted and fetched again
// meanwhile has another turn, of a file that was not synced.
func (c *Cache) syncFresh() map[oci.Digest]fresh {
	c.mu.Lock()
	synced := maps.Clone(c.pending)
	c.mu.Unlock()
	maps.DeleteFunc(synced, func(_ oci.Digest, p fresh) bool { return p.recorded })
	if len(synced) == 0 {
		return nil
	}
	var unsynced []oci.Digest
	for d, p := range synced {
		if !p.placed {
			unsynced = append(unsynced, d)
		}
	}
	for d, err := range c.store.Sync(unsynced) {
		c.diskFailed("syncing a blob", err)
		c.condemn(synced[d].Record)
		delete(synced, d)
	}
	return synced
}

// condemn drops a blob that could not be synced, unless it was evicted meanwhile.
// Nobody is given it any more, and no second fsync is believed, also if the disk
// does not remove it either: then it is counted on.
func (c *Cache) condemn(rec index.Record) {
	c.files.Lock()
	defer c.files.Unlock()
	rec, ok := c.current(rec)
	if !ok {
		return
	}
	if err := c.store.Remove(rec.Digest, rec.Allocated); err != nil {
		c.diskFailed("removing a blob", err)
	}
	c.forget(rec, index.Damaged)
}

// putBack returns what a full or read-only disk did not take, for the next
// checkpoint. Uses are not worth it; of tags and grants as many wait as memory
// keeps anyway, and the others are asked for upstream again.
func (c *Cache) putBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stillGoneLocked(c.leaving)
	c.leaving = nil
	trim(c.newTags, tagsKept)
	trim(c.goneTags, tagsKept)
	trim(c.newGrant, grantsKept)
}

// trim drops what is too much.
func trim[K comparable, V any](m map[K]V, most int) {
	for k := range m {
		if len(m) <= most {
			return
		}
		delete(m, k)
	}
}

// batch collects what the next transaction writes. It takes uses out of memory;
// all else stays there until it is recorded, the blobs until they are renamed. A
// digest may be both removed and put: the later blob stays.
func (c *Cache) batch(left []oci.Digest, synced map[oci.Digest]fresh) index.Batch {
	recorded := c.recordedGrants()
	c.mu.Lock()
	defer c.mu.Unlock()
	b := index.Batch{TouchAge: c.touchAge(), Delete: left}
	for _, d := range left {
		if how := c.leaving[d].how; how.Why != 0 {
			b.Departed = append(b.Departed, how)
		}
	}
	for d, p := range synced {
		if _, gone := c.gone[d]; gone || c.pending[d].turn != p.turn {
			continue // evicted meanwhile, or the blob before it: that is to be deleted first
		}
		if g, ok := c.gone[d]; ok { // an earlier one, evicted since syncGone: its record goes before this one comes
			b.Delete = append(b.Delete, d)
			c.leaving[d] = g
			delete(c.gone, d)
		}
		rec := p.Record
		if at, ok := c.touched[d]; ok {
			rec.LastUsed = at
			delete(c.touched, d)
		}
		b.Put = append(b.Put, rec)
	}
	slices.SortFunc(b.Put, func(a, b index.Record) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	c.takeTouches(&b)
	for _, t := range c.newTags {
		b.PutTags = append(b.PutTags, t)
	}
	for ref := range c.goneTags {
		b.DeleteTags = append(b.DeleteTags, ref)
	}
	for d, repos := range c.newGrant {
		if !c.grantableLocked(d, recorded) {
			continue
		}
		for repo, at := range repos {
			b.PutGrants = append(b.PutGrants, index.Grant{Repository: repo, Digest: d, At: at})
		}
	}
	return b
}

// takeTouches moves as many uses as one transaction takes into b. mu is held.
func (c *Cache) takeTouches(b *index.Batch) {
	b.Touch = make(map[oci.Digest]time.Time, min(len(c.touched), touchesAt))
	for d, at := range c.touched {
		if len(b.Touch) == touchesAt {
			return
		}
		if _, waits := c.pending[d]; !waits {
			b.Touch[d] = at
			delete(c.touched, d)
		}
	}
}

// recordedGrants tells of the digests that wait with a grant, and of which memory
// knows nothing, whether the index does. It asks without the lock: hits take it.
func (c *Cache) recordedGrants() map[oci.Digest]bool {
	recorded := map[oci.Digest]bool{}
	c.mu.Lock()
	for d := range c.newGrant {
		if _, here, gone := c.recentLocked(d); !here && !gone {
			recorded[d] = false
		}
	}
	c.mu.Unlock()
	for d := range recorded {
		_, ok, err := c.idx.Load().Get(d)
		recorded[d] = ok && err == nil
	}
	return recorded
}

// grantableLocked tells whether a digest has a record, or gets one: the grants of
// others would never be deleted. Those of what is neither here nor on its way are
// forgotten: whoever fetches it later is granted it then. mu is held.
func (c *Cache) grantableLocked(d oci.Digest, recorded map[oci.Digest]bool) bool {
	_, here, gone := c.recentLocked(d)
	known, asked := recorded[d]
	_, coming := c.writing[d]
	switch {
	case here || !gone && known:
		return true
	case !coming && (gone || asked):
		delete(c.newGrant, d)
	}
	return false
}
