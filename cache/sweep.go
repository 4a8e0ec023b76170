package cache

import (
	"time"

	"go.uber.org/zap"
)

// sweepEvery is how often it is looked for fills that nobody goes on with.
const sweepEvery = time.Minute

// sweep removes what fills have left that stopped and that nobody has touched for as
// long as they are kept. What an index knows as a blob is none: it is to be proven.
func (c *Cache) sweep(now time.Time) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked("a sweep of fills", p)
		}
	}()
	if c.o.FillsKept <= 0 {
		return
	}
	since, n := now.Add(-c.o.FillsKept), 0
	for _, d := range c.store.Untouched(since) {
		if c.ctx.Err() != nil {
			break
		}
		if _, blob := c.label(d); !blob && c.dropOne(d, since) {
			n++
		}
	}
	if n > 0 {
		c.log.Info("unfinished blobs that nobody went on with are removed", zap.Int("files", n), zap.Duration("after", c.o.FillsKept))
	}
}
