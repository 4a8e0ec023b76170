package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"cistern/cache/blob"
	"cistern/cache/flight"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// Bounds that DESIGN section 7 fixes.
const (
	negativeFor   = 10 * time.Second // a refusal is remembered
	documentFresh = 30 * time.Second // tags lists and referrers
	staleWait     = time.Second      // for upstream's word, where a stale copy may be served
	fetchBound    = 10 * time.Second // of one shared request that no client owns: a miss while upstream is down
)

// Sizes of the sets in memory, in entries of a few hundred bytes.
const (
	tagsKept      = 8192
	grantsKept    = 16384
	negativeKept  = 4096
	documentsKept = 256
)

// Options says how to open a cache. Only Dir is needed.
type Options struct {
	Dir           string
	Limit         int64                    // allocated bytes of everything in Dir; 0: no cap
	MinFree       func(fsSize int64) int64 // bytes to leave free on Dir's file system; nil: 0
	StopAbandoned bool                     // stop a fill when its last reader leaves; it can be resumed
	HotBytes      int64                    // of small objects in memory; 0: 16 MiB
	Log           *zap.Logger              // nil: none
}

// Cache is one cache directory in use. Its methods are safe for concurrent use.
type Cache struct {
	o     Options
	log   *zap.Logger
	store *blob.Store  // nil: no disk, see degraded
	index *index.Index // nil when store is
	hot   *hotSet

	flights  flight.Group[oci.Digest, *fill]
	shared   singleflight.Group // manifests, resolves, proofs, documents
	negative *lru.Cache[question, refused]
	docs     *lru.Cache[string, *Document]
	grants   *lru.Cache[grantKey, struct{}]
	tags     *lru.Cache[oci.Reference, index.Tag]

	mu         sync.Mutex // guards all below; taken last
	pending    map[oci.Digest]index.Record
	touched    map[oci.Digest]time.Time
	newTags    map[oci.Reference]index.Tag
	goneTags   map[oci.Reference]struct{}
	newGrant   map[grantKey]time.Time
	writing    map[oci.Digest]struct{}    // see claim
	refreshing map[oci.Reference]struct{} // see refreshLater

	rebuilding atomic.Bool // see takeUp
	degraded   string      // why nothing is kept until a restart
	trouble    string      // why the last blob was not kept
	closing    bool

	// commit is held while records and files are changed together: records
	// written and files renamed by a checkpoint, files unlinked and records
	// deleted by an eviction. Taken before mu.
	commit sync.Mutex
	// syncing is held by the one checkpoint that runs. Taken before commit.
	syncing sync.Mutex

	wake   chan struct{} // a checkpoint is wanted now
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup // fills, shared requests, background questions
	loops  sync.WaitGroup // the keeper, the evictor
	stop   chan struct{}  // ends the loops
	chunks sync.Pool      // *[chunk]byte, one for each fill
	stats  counters
}

type counters struct {
	resumed, unverified, checkpoints, unbacked atomic.Uint64
	evictedBytes, evictedBlobs                 atomic.Uint64
	evictedAge                                 atomic.Int64 // nanoseconds
	readers                                    atomic.Int64
	byUpstream                                 sync.Map // upstream -> *upstreamCounters
}

type upstreamCounters struct{ verifyFailures, stale atomic.Uint64 }

// upstream gives the counters of an upstream; there are as many as there are
// configured ones.
func (c *Cache) upstream(name string) *upstreamCounters {
	if u, ok := c.stats.byUpstream.Load(name); ok {
		return u.(*upstreamCounters)
	}
	u, _ := c.stats.byUpstream.LoadOrStore(name, &upstreamCounters{})
	return u.(*upstreamCounters)
}

// Open opens a cache directory. One that another process holds (blob.ErrLocked)
// or that a newer version wrote (blob.ErrVersion, index.ErrVersion) is refused;
// one that cannot be written gives a cache that keeps nothing on disk and
// streams, and says so in Stats.
func Open(o Options) (*Cache, error) {
	if o.HotBytes == 0 {
		o.HotBytes = 16 << 20
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	c := &Cache{
		o: o, log: o.Log, hot: newHotSet(o.HotBytes),
		pending: map[oci.Digest]index.Record{}, touched: map[oci.Digest]time.Time{},
		newTags: map[oci.Reference]index.Tag{}, goneTags: map[oci.Reference]struct{}{}, newGrant: map[grantKey]time.Time{},
		writing: map[oci.Digest]struct{}{}, refreshing: map[oci.Reference]struct{}{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	// The sizes are constants above zero: New cannot fail.
	c.negative, _ = lru.New[question, refused](negativeKept)
	c.docs, _ = lru.New[string, *Document](documentsKept)
	c.grants, _ = lru.New[grantKey, struct{}](grantsKept)
	c.tags, _ = lru.New[oci.Reference, index.Tag](tagsKept)
	c.chunks.New = func() any { return new([chunk]byte) }
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.openDisk(); err != nil {
		c.cancel()
		return nil, err
	}
	if c.store != nil {
		c.loops.Add(2)
		go c.keep()
		go c.evict()
	}
	return c, nil
}

// openDisk opens store and index, or notes why there is no disk to use.
func (c *Cache) openDisk() error {
	store, err := blob.Open(blob.Options{Dir: c.o.Dir, Limit: c.o.Limit, MinFree: c.o.MinFree})
	if errors.Is(err, blob.ErrLocked) || errors.Is(err, blob.ErrVersion) {
		return err
	}
	if err != nil {
		c.noDisk(err)
		return nil
	}
	x, lost, err := openIndex(filepath.Join(c.o.Dir, "index.db"))
	if err != nil {
		cerr := store.Close()
		if errors.Is(err, index.ErrVersion) || errors.Is(err, index.ErrLocked) {
			return errors.Join(err, cerr)
		}
		c.noDisk(err)
		return nil
	}
	c.store, c.index = store, x
	_, blobs := x.Totals().Sum()
	store.AddUsed(blobs + x.Footprint())
	c.settle()
	if lost != nil {
		c.log.Error("the index was damaged and is built anew: blobs are hashed again, tags are lost", zap.Error(lost))
	}
	c.takeUp(lost != nil || x.Fresh())
	return nil
}

func (c *Cache) noDisk(err error) {
	c.degraded = err.Error()
	c.log.Error("the cache directory cannot be used: everything is streamed, nothing is kept", zap.String("dir", c.o.Dir), zap.Error(err))
}

// openIndex opens the index; a broken one is put aside and replaced by an
// empty one, and lost says what was wrong with it.
func openIndex(path string) (x *index.Index, lost, err error) {
	x, err = index.Open(path, index.Options{})
	if !errors.Is(err, index.ErrBroken) {
		return x, nil, err
	}
	lost = err
	if err := os.Rename(path, path+brokenSuffix); err != nil {
		return nil, lost, fmt.Errorf("putting the broken index aside: %w", err)
	}
	x, err = index.Open(path, index.Options{})
	return x, lost, err
}

// settle looks through what earlier fills left: a recorded blob that was not
// renamed yet becomes one, and what cannot be trusted goes. It looks at fills/
// only.
func (c *Cache) settle() {
	for d, size := range c.store.Fills() {
		rec, ok, err := c.index.Get(d)
		switch {
		case err != nil:
			c.indexFailed(err)
			return
		case ok && rec.Size == size:
			err = c.store.Promote(d)
		case !c.store.SameBoot():
			err = c.store.Remove(d, 0)
		default:
			continue
		}
		if err != nil {
			c.diskFailed("settling what earlier fills left", err)
			return
		}
	}
	if err := c.store.Settle(); err != nil {
		c.diskFailed("settling what earlier fills left", err)
	}
}

// Close stops the fills, which stay on disk for the next start, writes a last
// checkpoint and lets go of the directory. Readers must have been closed.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.cancel()
	c.work.Wait()
	close(c.stop)
	c.loops.Wait()
	if c.store == nil {
		return nil
	}
	return errors.Join(c.index.Close(), c.store.Close())
}

// Ready proves that the cache can do its work: that the disk takes a file and
// the index can be read. A cache without a disk is not ready, but serves.
func (c *Cache) Ready() error {
	c.mu.Lock()
	why := c.degraded
	c.mu.Unlock()
	if why != "" {
		return errors.New(why)
	}
	if _, _, err := c.index.Get(oci.FromBytes(nil)); err != nil {
		return fmt.Errorf("reading the index: %w", err)
	}
	return c.tryDisk()
}

// Stats counts.
func (c *Cache) Stats() Stats {
	s := Stats{
		Limit:        c.o.Limit,
		EvictedBytes: c.stats.evictedBytes.Load(), EvictedBlobs: c.stats.evictedBlobs.Load(),
		EvictedAge:    time.Duration(c.stats.evictedAge.Load()).Seconds(),
		FillsInFlight: int64(len(c.flights.All())), FlightReaders: c.stats.readers.Load(),
		ResumedBytes: c.stats.resumed.Load(), UnverifiedSent: c.stats.unverified.Load(),
		Checkpoints: c.stats.checkpoints.Load(), Unbacked: c.stats.unbacked.Load(),
		VerifyFailures: map[string]uint64{}, StaleServed: map[string]uint64{},
	}
	c.stats.byUpstream.Range(func(name, u any) bool {
		s.VerifyFailures[name.(string)] = u.(*upstreamCounters).verifyFailures.Load()
		s.StaleServed[name.(string)] = u.(*upstreamCounters).stale.Load()
		return true
	})
	c.mu.Lock()
	s.Blobs, s.Degraded = int64(len(c.pending)), c.degraded
	if s.Degraded == "" {
		s.Degraded = c.trouble
	}
	c.mu.Unlock()
	if c.store != nil {
		u := c.store.Usage()
		s.Bytes, s.Reserved = u.Used, u.Reserved
		recorded, _ := c.index.Totals().Sum()
		s.Blobs += recorded
	}
	return s
}
