package cache

import (
	"cistern/cache/index"
	"cistern/internal/oci"
)

// While the files without a record are counted, those that are asked for are
// proven beside it: early. The account learns of all of them at the end of the
// count.

// beginEarly begins a count: what went before it is not met by it.
func (r *rebuild) beginEarly() {
	r.earlyMu.Lock()
	defer r.earlyMu.Unlock()
	r.missed = false
}

// noteEarly notes that a file is proven which the account may not know of yet.
func (r *rebuild) noteEarly(d oci.Digest) {
	r.earlyMu.Lock()
	defer r.earlyMu.Unlock()
	if !r.counting.Load() {
		return
	}
	if r.early == nil {
		r.early = map[oci.Digest]struct{}{}
	}
	r.early[d] = struct{}{}
}

func (r *rebuild) provenEarly(d oci.Digest) bool {
	if !r.counting.Load() {
		return false
	}
	r.earlyMu.Lock()
	defer r.earlyMu.Unlock()
	_, ok := r.early[d]
	return ok
}

// removeFile removes the file of a blob. That of one that was proven early is in
// no account yet, and whether the count has met it nobody knows: it begins anew.
// files is held.
func (c *Cache) removeFile(rec index.Record, why index.Why) error {
	remove := c.store.Remove
	if why == index.Damaged {
		remove = c.store.SetAside
	}
	if !c.rebuild.provenEarly(rec.Digest) {
		return remove(rec.Digest, rec.Allocated)
	}
	c.store.AddUsed(rec.Allocated) // to be given back
	if err := remove(rec.Digest, rec.Allocated); err != nil {
		c.store.AddUsed(-rec.Allocated)
		return err
	}
	c.rebuild.earlyMu.Lock()
	defer c.rebuild.earlyMu.Unlock()
	delete(c.rebuild.early, rec.Digest)
	c.rebuild.missed = true
	return nil
}

// counted ends a count, and adds to the account what it met, if account says
// so. It tells whether the count was right.
func (c *Cache) counted(account bool) bool {
	c.files.Lock() // nothing goes meanwhile
	defer c.files.Unlock()
	r := &c.rebuild
	r.earlyMu.Lock()
	defer r.earlyMu.Unlock()
	if r.missed {
		return false
	}
	if account {
		c.store.AddUsed(r.bytes.Load())
	}
	r.early = nil
	r.counting.Store(false)
	return true
}
