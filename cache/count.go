package cache

import "go.uber.org/zap"

// countLying counts the files without a record and, if the account does not
// know of them, adds them to it. It tells whether it came to the end.
func (c *Cache) countLying(account bool) bool {
	c.rebuild.beginEarly()
	c.rebuild.files.Store(0)
	c.rebuild.bytes.Store(0)
	c.rebuild.hashed.Store(0)
	for folder, err := range c.store.Blobs() {
		if c.ctx.Err() != nil {
			return false
		}
		if err != nil {
			c.diskFailed("looking through the blobs", err)
			return false
		}
		known := c.known(folder)
		for i, f := range folder {
			if !known[i] || c.rebuild.provenEarly(f.Digest) {
				c.rebuild.files.Add(1)
				c.rebuild.bytes.Add(f.Allocated)
			}
		}
	}
	if !c.counted(account) {
		return false
	}
	c.log.Info("blobs without a record are hashed and recorded", zap.Int64("files", c.rebuild.files.Load()), zap.Int64("bytes", c.rebuild.bytes.Load()))
	return true
}
