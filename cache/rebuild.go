package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/oci"
)

const (
	// brokenSuffix is added to the name of an index that is put aside.
	brokenSuffix = ".broken"
	// renewEvery is how long a broken index waits for the next try to replace
	// it, where the first one failed.
	renewEvery = 10 * time.Second
	// proveSoon is how long the rebuilding waits after a step that failed, or
	// left a file behind that somebody else was at; each time twice as long, up
	// to proveAgain.
	proveSoon  = 50 * time.Millisecond
	proveAgain = time.Minute
)

// rebuild is the building of a new index from the files in blobs/, after the
// old one was lost, or broke, or where the directory is a copy. Nobody waits for
// it: what is asked for is proven at once.
type rebuild struct {
	on       atomic.Bool // blobs/ may hold files without a record
	counting atomic.Bool // and nobody knows yet how much lies there
	// old is what can be read of the index before: labels for bytes that are
	// proven by their digest, and tags. nil: nothing.
	old atomic.Pointer[index.Salvage]

	running bool          // guarded by Cache.mu
	taking  chan struct{} // not nil: old's tags are not taken over yet; guarded by Cache.mu
	again   chan struct{} // capacity 1: an index broke meanwhile

	lost atomic.Bool // the index met damaged records: see takeUpLost

	earlyMu sync.Mutex
	early   map[oci.Digest]struct{} // proven while all was being counted
	missed  bool                    // one of them is gone: see removeFile

	files, bytes, hashed, damaged atomic.Int64

	unfit unfit
}

// Rebuild says how far the building of a new index has come.
type Rebuild struct {
	Running bool
	Files   int64 // without a record, met so far
	Bytes   int64 // allocated by them
	Hashed  int64 // files that were read; recorded if they were intact
	Damaged int64 // files that were not what their name says, and are set aside
}

func (r *rebuild) progress() Rebuild {
	return Rebuild{r.on.Load(), r.files.Load(), r.bytes.Load(), r.hashed.Load(), r.damaged.Load()}
}

// openIndex opens the index; a broken one is put aside and replaced by an
// empty one, and lost says what was wrong with it. Before there is an empty
// index beside files it is marked, durably, that they are to be recorded.
func openIndex(store *blob.Store, o Options) (x *index.Index, lost, err error) {
	path := o.indexPath()
	if store.ReadOnly() { // what lies here without a record cannot get one
		o.index.ReadOnly = true
		x, err = index.Open(path, o.index)
		return x, nil, err
	}
	fi, err := os.Lstat(path)
	missing := errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0
	if missing && store.Holds() || store.Moved() {
		if err := store.MarkUnproven(); err != nil {
			return nil, nil, err
		}
	}
	x, err = index.Open(path, o.index)
	if !errors.Is(err, index.ErrBroken) {
		return x, nil, err
	}
	lost = err
	x, err = replaceIndex(store, o)
	return x, lost, err
}

// replaceIndex puts a broken index aside and makes an empty one. One that was
// only half made is taken away, or the next try would put it aside over the one
// that has the labels and tags.
func replaceIndex(store *blob.Store, o Options) (*index.Index, error) {
	if err := store.MarkUnproven(); err != nil {
		return nil, err
	}
	path := o.indexPath()
	if err := os.Rename(path, path+brokenSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("putting the broken index aside: %w", err)
	}
	x, err := index.Open(path, o.index)
	if err != nil {
		if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		return nil, err
	}
	return x, nil
}

// countIndex has the account follow what the index takes, and one put aside.
// syncing is held, or nobody else is there yet.
func (c *Cache) countIndex() {
	now := c.idx.Load().Footprint() + c.o.asideBytes()
	c.store.AddUsed(now - c.indexed)
	c.indexed = now
}

// asideBytes is what an index that was put aside takes: its blocks, since most
// of what its size says was never written.
func (o Options) asideBytes() int64 {
	fi, err := os.Lstat(o.indexPath() + brokenSuffix)
	if err != nil {
		return 0
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return fi.Size()
}

// renewIndex replaces an index that broke while it was in use. Until it
// succeeds nothing is recorded; false says so. syncing is held.
func (c *Cache) renewIndex() bool {
	old := c.idx.Load()
	broken := old.Broken()
	if broken == nil {
		return true
	}
	if time.Since(c.renewed) < renewEvery {
		return false
	}
	c.renewed = time.Now()
	c.log.Error("the index failed and is built anew: blobs are hashed again", zap.Error(broken))
	c.rebuild.on.Store(true) // nobody may write over what has no record any more
	err := old.Close()
	x, oerr := replaceIndex(c.store, c.o)
	if oerr != nil {
		c.noIndex(errors.Join(broken, err, oerr))
		return false
	}
	c.mu.Lock()
	c.idx.Store(x)
	c.degraded = ""
	c.stillGoneLocked(c.leaving)
	c.leaving = nil
	for d, g := range c.gone { // the new one knows nothing of them
		g.recorded = false
		c.gone[d] = g
	}
	for d, p := range c.pending {
		p.recorded, p.known = false, false
		c.pending[d] = p
	}
	c.mu.Unlock()
	c.countIndex()
	c.takeUp(true, false)
	return true
}

// noIndex notes that no index can be made: nothing new is kept until one can.
func (c *Cache) noIndex(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.degraded == "" {
		c.log.Error("no index can be made: nothing new is kept on disk until one can", zap.Error(err))
	}
	c.degraded = "the index failed: " + err.Error()
}

// takeUp has the files without a record recorded in the background. lost: there
// is an old index to read labels and tags from. count: the account does not
// know of the files yet; until it does, nothing is kept.
func (c *Cache) takeUp(lost, count bool) {
	c.rebuild.on.Store(true)
	if count { // else it may be counting all the same, for an index before this one
		c.rebuild.counting.Store(true)
	}
	if lost {
		c.salvage()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.rebuild.running:
		select {
		case c.rebuild.again <- struct{}{}:
		default:
		}
	case !c.closing:
		c.rebuild.running = true
		c.work.Add(1)
		go c.takeUpAll(count)
	}
}

// salvage opens what is left of the old index. Whoever asks for a tag from now
// on waits until its tags are taken over.
func (c *Cache) salvage() {
	old, err := index.OpenSalvage(c.o.indexPath() + brokenSuffix)
	if err != nil {
		c.log.Warn("nothing can be read of the old index: tags will be asked for again", zap.Error(err))
		return
	}
	c.dropSalvage(old)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rebuild.taking == nil {
		c.rebuild.taking = make(chan struct{})
	}
}

// dropSalvage closes the old index, if there is one, and puts another in its
// place, or nil. Whoever reads it finds nothing more.
func (c *Cache) dropSalvage(now *index.Salvage) {
	if before := c.rebuild.old.Swap(now); before != nil {
		_ = before.Close() // it was for reading only
	}
}

// takeTags takes the tags of the old index over, if there are any to be taken:
// they are nowhere else. Where pages are lost that means to read the whole file.
// syncing is held, so that no later word on a tag is overwritten.
func (c *Cache) takeTags() bool {
	c.syncing.Lock()
	defer c.syncing.Unlock()
	c.mu.Lock()
	taking := c.rebuild.taking
	c.mu.Unlock()
	if taking == nil {
		return true
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.rebuild.taking = nil
		close(taking)
	}()
	old := c.rebuild.old.Load()
	if old == nil {
		return false // the cache closes
	}
	n, err := c.idx.Load().TakeTags(old)
	if err != nil {
		c.indexFailed(err)
		return false
	}
	c.pins.happened()
	c.log.Info("tags were read from the old index", zap.Int("tags", n))
	return true
}

// tagsTaken waits while tags of an old index are taken over, and tells whether
// it did: as long as it takes to read a file, and only where a tag is not known.
func (c *Cache) tagsTaken() bool {
	c.mu.Lock()
	taking := c.rebuild.taking
	c.mu.Unlock()
	if taking == nil {
		return false
	}
	select {
	case <-taking:
	case <-c.ctx.Done():
	}
	return true
}

// takeUpAll takes tags over, counts the files without a record, if they are to
// be counted, and proves one after the other. What fails is tried again until it works: as long
// as nobody knows what lies there, nothing is kept.
func (c *Cache) takeUpAll(count bool) {
	defer c.work.Done()
	wait := proveSoon
	for !(c.calm("taking tags over", c.takeTags) && c.calm("counting files", func() bool { return c.countLying(count) })) {
		if !c.pause(&wait) {
			return
		}
	}
	c.calm("syncing files", c.syncLying)
	for !(c.calm("taking tags over", c.takeTags) && c.calm("proving files", c.proveAll) && c.checkpoint() && c.allProven()) {
		if !c.pause(&wait) {
			return
		}
	}
	p := c.rebuild.progress()
	c.log.Info("all blobs are recorded", zap.Int64("files", p.Files), zap.Int64("damaged", p.Damaged))
}

// syncLying puts what lies in blobs/ on stable storage: a record says so. Where it
// fails each file is synced when it is proven, and the disk says which it was.
func (c *Cache) syncLying() bool {
	err := c.store.SyncAll()
	if err != nil {
		c.log.Warn("files without a record are synced one by one, which is slow", zap.Error(err))
	}
	return err == nil
}

// allProven ends the rebuilding; false if an index broke meanwhile, and it is to
// begin again.
func (c *Cache) allProven() bool {
	c.syncing.Lock() // none is replaced from here on
	defer c.syncing.Unlock()
	c.mu.Lock()
	c.rebuild.running = len(c.rebuild.again) > 0 || c.rebuild.lost.Load() || c.idx.Load().Broken() != nil
	again := c.rebuild.running
	c.mu.Unlock()
	if again {
		return false
	}
	c.rebuild.on.Store(false)
	if c.rebuild.lost.Load() { // by now
		c.rebuild.on.Store(true)
	}
	c.dropSalvage(nil)
	if n := c.rebuild.unfit.leaves(); n > 0 { // the next process tries again
		c.log.Error("files stay in the cache without a record, which cannot be read or removed", zap.Int("files", n))
		return true
	}
	if err := c.store.AllProven(); err != nil {
		c.diskFailed("noting that all blobs are recorded", err)
	}
	return true
}

// pause waits until what failed may work, or is to begin again; false if the
// cache closes.
func (c *Cache) pause(wait *time.Duration) bool {
	t := time.NewTimer(*wait)
	defer t.Stop()
	*wait = min(2**wait, proveAgain)
	select {
	case <-t.C:
	case <-c.rebuild.again:
	case <-c.ctx.Done():
		return false
	}
	return true
}

// calm runs a step of what goes on in the background; a panic is one that did not end.
func (c *Cache) calm(what string, step func() bool) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked(what, p)
			ok = false
		}
	}()
	return step()
}
