package cache

import "go.uber.org/zap"

// recordLost is told by the index that it met a damaged record. Its file is not
// to be taken for nobody's: it is one of those without a record, as all are
// after the loss of an index.
func (c *Cache) recordLost() {
	c.rebuild.lost.Store(true)
	c.rebuild.on.Store(true)
	c.hurry()
}

// takeUpLost has the files of damaged records proven and recorded anew. The mark
// comes before the index deletes such records, and then counts their files no
// more. syncing is held.
func (c *Cache) takeUpLost() bool {
	if !c.rebuild.lost.Swap(false) {
		return true
	}
	if err := c.store.MarkUnproven(); err != nil {
		c.rebuild.lost.Store(true)
		c.diskFailed("marking that blobs are to be recorded", err)
		return false
	}
	c.log.Warn("records in the index are damaged: their blobs are hashed again", zap.Uint64("damaged", c.idx.Load().Stats().BadValues))
	c.takeUp(false, false) // the account has them, since the index counted them when it was opened
	return true
}
