package cache

import "go.uber.org/zap"

// What the cache writes without asking for room, an index that grows, takes the
// free space below min_free now and then, until the evictor looks. Whoever finds
// it there again and again finds a disk that is full.
const (
	crowdedAt = 3  // looks without room, before it is said
	roomyAt   = 60 // looks in a row with it, before that is over
)

// crowd is what the evictor, who looks once a second, saw of a disk that others
// fill.
type crowd struct {
	said           bool
	crowded, roomy int // looks
}

// saw takes one look in, and tells whether it changes what there is to say.
func (d *crowd) saw(crowded bool) (changed bool) {
	if crowded {
		d.crowded, d.roomy = d.crowded+1, 0
		changed = d.crowded >= crowdedAt && !d.said
		d.said = d.said || changed
		return changed
	}
	if d.roomy++; d.roomy < roomyAt {
		return false
	}
	changed = d.said
	*d = crowd{}
	return changed
}

// say says once when others have filled the disk, and once when there is room
// again.
func (c *Cache) say(d *crowd) {
	if c.o.MinFree == nil {
		return
	}
	u := c.store.Usage()
	floor := c.o.MinFree(u.FSSize)
	if u.FSSize == 0 || !d.saw(u.FSFree < floor) {
		return
	}
	fields := []zap.Field{
		zap.String("dir", c.o.Dir), zap.Int64("free", u.FSFree), zap.Int64("min_free", floor),
		zap.Int64("cached", u.Used), zap.Int64("size", u.FSSize),
	}
	if d.said {
		c.log.Warn("less is free on the disk than cache.min_free says: what is cached is evicted, and what is new is streamed; free what others take, or lower cache.min_free", fields...)
		return
	}
	c.log.Info("the disk has room again, as cache.min_free says: new blobs are kept", fields...)
}
