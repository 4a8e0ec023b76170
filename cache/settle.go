package cache

import (
	"cistern/cache/index"
	"cistern/internal/oci"
)

// settle looks through what earlier fills left, which is in fills/ only. A file
// there that has a record of its size is most likely that blob, not yet renamed
// when the process ended. It may also be a later one: a blob was evicted and was
// being fetched again, and its old record was not yet deleted. So it is
// doubted: its digest decides, in the background or when it is asked for.
func (c *Cache) settle() {
	for d, size := range c.store.Fills() {
		rec, ok, err := c.idx.Load().Get(d)
		if err != nil {
			c.indexFailed(err)
			return
		}
		if err := c.settleOne(d, size, rec, ok); err != nil {
			c.diskFailed("settling what earlier fills left", err)
			return
		}
	}
	if err := c.store.Settle(); err != nil {
		c.diskFailed("settling what earlier fills left", err)
		return
	}
	c.proveDoubted()
}

// settleOne decides on what one fill left. A file in blobs/ beside it would be
// found in its place; it is there if a power cut has undone a removal, or in a
// copy of a directory that was in use.
func (c *Cache) settleOne(d oci.Digest, size int64, rec index.Record, recorded bool) error {
	_, lies := c.store.Lying(d)
	doubted := recorded && rec.Size == size && !c.store.KeptPieces(d) // a blob has no piece state any more
	if recorded && (doubted || !lies) {                               // the leftover counts, or nothing does
		c.store.AddUsed(-rec.Allocated)
	}
	switch {
	case doubted:
		c.doubted[d] = rec
		if lies {
			return c.store.RemoveLying(d, 0)
		}
	case lies: // what is in blobs/ has the record, or is yet to be proven
		return c.store.DropKept(d)
	case recorded: // its file went before the last process did
		c.gone[d] = departed{class: rec.Class, allocated: rec.Allocated, recorded: true, unsynced: true}
	}
	if doubted || c.store.SameBoot() {
		return nil
	}
	if left, err := c.store.KeepSynced(d); left || err != nil {
		return err
	}
	return c.store.DropKept(d)
}

// doubtFills doubts what lies in fills/ and has a record, in a directory where
// nothing can be settled.
func (c *Cache) doubtFills() {
	for d, size := range c.store.Fills() {
		rec, ok, err := c.idx.Load().Get(d)
		if err != nil {
			c.indexFailed(err)
			return
		}
		if ok && rec.Size == size && !c.store.KeptPieces(d) {
			c.doubted[d] = rec
			c.store.AddUsed(-rec.Allocated) // the file counts, and not twice
		}
	}
}
