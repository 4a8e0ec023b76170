package cache

import (
	"fmt"
	"sync"

	"go.uber.org/zap"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// unfit is what the proving of files without a record came to, where they are no blobs
// now.
type unfit struct {
	mu       sync.Mutex
	disowned []lost               // that were not what their names say, until Verify tells it; repairAt at most
	untold   int64                // of those, that were too many
	left     map[oci.Digest]stuck // that cannot be read, or removed; they lie there, and count as used
}

// stuck is a file that stays where it is.
type stuck struct {
	allocated int64
	why       error // nil: it is yet to be proven
}

// leave notes that nothing can be done about a file in blobs/.
func (c *Cache) leave(f blob.Found, why error) {
	if before := c.rebuild.unfit.note(f, why); before.why == nil {
		c.log.Warn("a file without a record stays in the cache, and is not used", zap.Stringer("digest", f.Digest), zap.Int64("size", f.Size), zap.Error(why))
	}
}

// note notes why a file is left, and gives what was noted before.
func (o *unfit) note(f blob.Found, why error) (before stuck) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.left == nil {
		o.left = map[oci.Digest]stuck{}
	}
	before = o.left[f.Digest]
	o.left[f.Digest] = stuck{f.Allocated, why}
	return before
}

// count has the account know of a file without a record that it does not know of.
func (c *Cache) count(f blob.Found) {
	if _, counted := c.rebuild.unfit.has(f.Digest); !counted {
		c.store.AddUsed(f.Allocated)
		c.rebuild.unfit.note(f, nil)
	}
}

// takeLeft forgets that a file was left, and gives what it takes of the account; 0 if it
// was not.
func (o *unfit) takeLeft(d oci.Digest) (allocated int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	allocated = o.left[d].allocated
	delete(o.left, d)
	return allocated
}

// has gives why a file was left, nil if nobody has looked at it yet; false if it was not.
func (o *unfit) has(d oci.Digest) (why error, left bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, left := o.left[d]
	return s.why, left
}

// leaves is how many were left.
func (o *unfit) leaves() (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.left {
		if s.why != nil {
			n++
		}
	}
	return n
}

// disown sets aside a file in blobs/ that is not what its name says.
func (c *Cache) disown(f blob.Found) {
	rec := c.labelled(f)
	if err := c.store.SetAside(f.Digest, f.Allocated); err != nil {
		c.leave(f, fmt.Errorf("its bytes are not those of its name, and it cannot be removed: %w", err))
		return
	}
	c.rebuild.unfit.takeLeft(f.Digest)
	c.disowned(rec)
}

// disownFill is disown for one that was moved to fills/ to be read.
func (c *Cache) disownFill(f *fill, left *leftover) {
	rec := c.labelled(blob.Found{Digest: f.digest, Size: left.in.Front(), Public: left.public})
	left.keep()
	if err := c.store.SetAside(f.digest, 0); err != nil {
		c.diskFailed("removing a damaged file", err)
	}
	c.undoubt(f.digest)
	c.disowned(rec)
}

// disowned tells of a file that was set aside.
func (c *Cache) disowned(rec index.Record) {
	c.rebuild.damaged.Add(1)
	c.stats.damaged.Add(1)
	name := c.store.Aside(rec.Digest)
	c.log.Warn("a file without a record is not the blob of its name: it is set aside", zap.Stringer("digest", rec.Digest),
		zap.Int64("size", rec.Size), zap.String("set_aside", name))
	o := &c.rebuild.unfit
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.disowned) >= repairAt {
		o.untold++
		return
	}
	f := Finding{Digest: rec.Digest.String(), Size: rec.Size, Upstream: rec.Origin, What: errWrongStray.Error(), FirstBad: unknown, SetAside: name}
	o.disowned = append(o.disowned, lost{f, rec})
}

// errWrongStray says what is wrong with a file without a record.
var errWrongStray = fmt.Errorf("its file had no record, and %w", errWrong)

// disowned tells of what the proving has set aside since it was last asked.
func (v *verification) disowned() {
	o := &v.c.rebuild.unfit
	o.mu.Lock()
	all, untold := o.disowned, o.untold
	o.disowned, o.untold = nil, 0
	o.mu.Unlock()
	for _, l := range all {
		if v.Repository != nil {
			v.lost[l.rec.Digest] = l
			continue
		}
		l.Then = "fetched again at the next pull"
		v.found(l.Finding)
	}
	v.progress.Findings += untold
}
