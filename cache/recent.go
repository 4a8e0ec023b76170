package cache

import (
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// What has happened since the last checkpoint is in memory, and outranks the
// index: blobs that it does not know of, and records of blobs that are gone. No
// request and no eviction waits for a transaction; a checkpoint, a second later
// at most, takes both over.

// fresh is a blob of which the index knows nothing, or not as it stands.
type fresh struct {
	index.Record
	turn     uint64 // tells it from an earlier blob of the same digest
	recorded bool   // it is in the index by now; its file is not renamed yet
	placed   bool   // its file lies in its place, on stable storage
	known    bool   // the index has a record of it already, which is not to stay
}

// departed is a blob whose file is gone.
type departed struct {
	class     index.Class
	allocated int64
	recorded  bool            // the index counts it still
	unsynced  bool            // its file may have lain in blobs/, and may come back
	how       index.Departure // its Why 0: nobody asks
}

// stillGoneLocked takes back what a checkpoint did not come to an end with. What
// the index counts outranks what it never knew of. mu is held.
func (c *Cache) stillGoneLocked(left map[oci.Digest]departed) {
	for d, g := range left {
		if _, again := c.gone[d]; !again || g.recorded {
			c.gone[d] = g
		}
	}
}

// goneAt is how many removals do not wait for the second to end: each is walked
// over by the next search for victims.
const goneAt = 4096

// admit makes a committed blob findable; a checkpoint will record it.
func (c *Cache) admit(rec index.Record) {
	if c.enter(fresh{Record: rec}) >= checkpointAt {
		c.hurry()
	}
}

// admitPlaced is admit for a file that lies in blobs/ already.
func (c *Cache) admitPlaced(rec index.Record) { c.enter(fresh{Record: rec, placed: true}) }

func (c *Cache) enter(p fresh) (waiting int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn++
	p.turn = c.turn
	c.pending[p.Digest] = p
	delete(c.doubted, p.Digest)
	c.trouble = ""
	c.pins.arrived(p.Digest)
	return len(c.pending)
}

// recentLocked tells what memory knows of a digest: a blob, or that there is
// none whatever the index says. mu is held.
func (c *Cache) recentLocked(d oci.Digest) (rec index.Record, here, gone bool) {
	if p, ok := c.pending[d]; ok {
		return p.Record, true, false
	}
	_, gone = c.gone[d]
	if !gone {
		_, gone = c.leaving[d]
	}
	if !gone {
		_, gone = c.doubted[d]
	}
	return rec, false, gone
}

// findStored tells what is known of a whole blob on disk. A broken index is a
// miss: the daemon serves on.
func (c *Cache) findStored(d oci.Digest) (index.Record, bool) {
	if c.store == nil {
		return index.Record{}, false
	}
	c.mu.Lock()
	rec, here, gone := c.recentLocked(d)
	c.mu.Unlock()
	if here || gone {
		return rec, here
	}
	rec, ok, err := c.idx.Load().Get(d)
	if err != nil {
		c.indexFailed(err)
		return index.Record{}, false
	}
	return rec, ok
}

// recorded tells whether a blob is here also after a power cut.
func (c *Cache) recorded(d oci.Digest) bool {
	c.mu.Lock()
	p, waits := c.pending[d]
	_, _, gone := c.recentLocked(d)
	c.mu.Unlock()
	if waits || gone {
		return waits && p.recorded
	}
	_, ok, err := c.idx.Load().Get(d)
	return ok && err == nil
}

// forget takes a removed blob out of memory and notes that its record is to go:
// after its file is gone, since whoever does not find a blob may begin to write
// it. With a private one goes the knowledge of who may have it: bytes that come
// back do not bring it back.
func (c *Cache) forget(rec index.Record, why index.Why) {
	c.mu.Lock()
	if at := c.touched[rec.Digest]; at.After(rec.LastUsed) {
		rec.LastUsed = at
	}
	how := index.Departure{Digest: rec.Digest, Why: why, At: time.Now(), LastUsed: rec.LastUsed, Size: rec.Size}
	was, waited := c.pending[rec.Digest]
	delete(c.pending, rec.Digest)
	delete(c.touched, rec.Digest)
	delete(c.newGrant, rec.Digest)
	if g := c.gone[rec.Digest]; g.recorded { // that of an earlier blob is what the index counts
		g.how = how
		c.gone[rec.Digest] = g
	} else {
		known := !waited || was.recorded || was.known
		c.gone[rec.Digest] = departed{rec.Class, rec.Allocated, known, known || was.placed, how}
	}
	many := len(c.gone) >= goneAt
	c.mu.Unlock()
	c.hot.remove(rec.Digest)
	c.grants.Remove(rec.Digest)
	if many {
		c.hurry()
	}
}

// held is what the blobs of each class allocate that the index counts and that
// are not gone.
func (c *Cache) held() (held [index.Classes]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held = c.idx.Load().Totals().Allocated
	for _, set := range []map[oci.Digest]departed{c.gone, c.leaving} {
		for _, g := range set {
			if g.recorded {
				held[g.class] -= g.allocated
			}
		}
	}
	return held
}

// touch notes a use. It reaches the index with a later checkpoint: a hit never
// waits for a commit.
func (c *Cache) touch(d oci.Digest, now time.Time) {
	if !c.writable() {
		return
	}
	c.scrubbed.used.Store(now.Unix())
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.touched[d]; ok {
		c.touched[d] = now // the key that is there stays
	} else if len(c.touched) < touchesKept {
		c.touched[d.Clone()] = now
	}
}
