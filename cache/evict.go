package cache

import (
	"cmp"
	"slices"
	"time"

	"cistern/cache/index"
	"cistern/cache/policy"
	"cistern/internal/oci"
)

// evict frees space when a reservation asks for it, and looks now and then
// whether others have filled the disk, until the cache closes.
func (c *Cache) evict() {
	defer c.loops.Done()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	var crowd crowd
	c.sweep(time.Now())
	for {
		select {
		case <-c.store.Pressure():
		case <-t.C:
			c.say(&crowd)
		case now := <-sweep.C:
			c.sweep(now)
		case <-c.stop:
			return
		}
		for c.ctx.Err() == nil && c.evictSome() {
		}
	}
}

// evictSome frees one batch; false when nothing is wanted or nothing can go.
func (c *Cache) evictSome() (more bool) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked("an eviction", p)
			more = false
		}
	}()
	want := c.store.Wanted()
	if want <= 0 {
		return false
	}
	if !c.repin() && c.pins.unclear() {
		return false
	}
	want += policy.Extra(c.o.Limit)
	victims, err := c.idx.Load().Victims(time.Now(), want, c.floorsInIndex(), c.lastTouch, c.passOver)
	if err != nil {
		c.indexFailed(err)
	}
	if len(victims) == 0 {
		victims = c.freshVictims(want)
	}
	if len(victims) > 0 {
		return c.expel(victims)
	}
	return c.dropLeftover()
}

// dropLeftover removes what was set aside, or one fill that stopped and that nobody goes on
// with.
func (c *Cache) dropLeftover() bool {
	if c.store.DropAside() {
		return true
	}
	for d := range c.store.Fills() {
		if c.dropOne(d, time.Time{}) {
			return true
		}
	}
	return false
}

// dropOne removes a fill that stopped, unless it goes on, or has ended since it was
// met, or was touched since, if that is not zero, or is pinned: it may be all of a blob.
func (c *Cache) dropOne(d oci.Digest, since time.Time) bool {
	if !c.claim(d) {
		return false
	}
	defer c.release(d)
	touched, kept := c.store.Touched(d)
	if !kept || c.pins.keeps(d) || !since.IsZero() && !touched.Before(since) {
		return false
	}
	if err := c.store.DropKept(d); err != nil {
		c.diskFailed("evicting an unfinished fill", err)
		return false
	}
	c.undoubt(d)
	return true
}

// lastTouch is a use that the index does not know of yet.
func (c *Cache) lastTouch(d oci.Digest) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.touched[d]
}

// busy tells whether a blob must be passed over: somebody reads it, or it is pinned, or
// the counting would begin anew for it.
func (c *Cache) busy(d oci.Digest) bool {
	return c.store.Reading(d) || c.pins.holding(d) || c.rebuild.provenEarly(d)
}

// passOver tells which records are no candidates: those of blobs that are busy,
// or gone, or gone and here anew.
func (c *Cache) passOver(d oci.Digest) bool {
	c.mu.Lock()
	p, waits := c.pending[d]
	_, _, gone := c.recentLocked(d)
	c.mu.Unlock()
	return gone || waits && !p.recorded || c.busy(d)
}

// floorsInIndex are the floors as Victims takes them: it counts with the blobs
// that are gone and whose records are not.
func (c *Cache) floorsInIndex() [index.Classes]int64 {
	floors, counted, held := policy.Floors(c.o.Limit), c.idx.Load().Totals().Allocated, c.held()
	for class := range floors {
		floors[class] += counted[class] - held[class]
	}
	return floors
}

// freshVictims picks from what no checkpoint has recorded yet, oldest use
// first: in a storm into a small cache everything may be that young.
func (c *Cache) freshVictims(want int64) []index.Record {
	c.mu.Lock()
	young := make([]fresh, 0, len(c.pending))
	for d, p := range c.pending {
		if p.recorded {
			continue // the index offers it
		}
		if at := c.touched[d]; at.After(p.LastUsed) {
			p.LastUsed = at
		}
		young = append(young, p)
	}
	c.mu.Unlock()
	slices.SortFunc(young, func(a, b fresh) int { // a clock may stand still
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), cmp.Compare(a.turn, b.turn))
	})
	var victims []index.Record
	floors, held := policy.Floors(c.o.Limit), c.held()
	for _, p := range young {
		held[p.Class] += p.Allocated
	}
	for _, p := range young {
		if want <= 0 {
			break
		}
		if held[p.Class] > floors[p.Class] && !c.busy(p.Digest) {
			victims = append(victims, p.Record)
			held[p.Class] -= p.Allocated
			want -= p.Allocated
		}
	}
	return victims
}

// expel removes blobs. It tells whether it removed any: a disk that refuses to
// unlink is not to be asked for ever. Their records go with the next checkpoint;
// a crash before it leaves records without files, which are found at their next
// use, and whose turn to be evicted comes first.
func (c *Cache) expel(victims []index.Record) (any bool) {
	for _, rec := range victims {
		rec, ok := c.dropSurely(rec, index.Evicted)
		if !ok {
			continue // removed since it was chosen
		}
		any = true
		c.stats.evictedBlobs.Add(1)
		c.stats.evictedBytes.Add(uint64(rec.Allocated))
		c.stats.evictedAge.Store(int64(time.Since(rec.LastUsed)))
	}
	return any
}
