package cache

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"cistern/cache/bandwidth"
	"cistern/cache/blob"
	"cistern/cache/flight"
	"cistern/cache/index"
	"cistern/internal/durable"
	"cistern/internal/oci"
)

// indexName is the index's file in the cache directory.
const indexName = "index.db"

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
	FillsKept     time.Duration            // of a fill that stopped and that nobody touches; 0: until its space is wanted
	Bandwidth     *bandwidth.Limit         // of what comes of blobs from all upstreams together; nil: none
	ScrubRate     int64                    // bytes per second at which blobs are hashed again while nobody is served; 0: not
	HotBytes      int64                    // of small objects in memory; 0: 16 MiB
	Log           *zap.Logger              // nil: none

	// For tests: a file system that fails or crashes, and an index that does.
	fs       durable.FS    // nil: the real one on Dir
	indexDir string        // where the index lies if fs is no real one
	index    index.Options // the zero value but in tests
}

// indexPath is where the index lies.
func (o Options) indexPath() string {
	if o.indexDir != "" {
		return filepath.Join(o.indexDir, indexName)
	}
	return filepath.Join(o.Dir, indexName)
}

// Cache is one cache directory in use. Its methods are safe for concurrent use.
type Cache struct {
	o     Options
	log   *zap.Logger
	store *blob.Store                 // nil: no disk, see degraded
	idx   atomic.Pointer[index.Index] // nil when store is; see renewIndex
	hot   *hotSet

	flights  flight.Group[oci.Digest, *fill]
	shared   singleflight.Group // manifests, resolves, proofs, documents
	proving  singleflight.Group // files without a record
	negative *lru.Cache[question, refused]
	docs     *lru.Cache[string, *Document]
	grants   *lru.Cache[oci.Digest, holders]
	tags     *lru.Cache[oci.Reference, index.Tag]

	unverified *lru.Cache[oci.Digest, time.Time] // blobs that upstream sent and that were not what their digest says
	formers    *lru.Cache[oci.Reference, former] // of tags that have moved or gone since the start
	unkept     *lru.Cache[oci.Digest, time.Time] // blobs that were sent on, and that the disk did not take
	paces      paces
	pins       pins

	mu         sync.Mutex // guards all below; taken last
	pending    map[oci.Digest]fresh
	gone       map[oci.Digest]departed     // since the last checkpoint took them
	leaving    map[oci.Digest]departed     // of the checkpoint that runs
	doubted    map[oci.Digest]index.Record // see settle
	turn       uint64                      // of the last blob that was admitted
	touched    map[oci.Digest]time.Time
	newTags    map[oci.Reference]index.Tag
	goneTags   map[oci.Reference]struct{}
	words      uint64 // on tags, so far
	newGrant   map[oci.Digest]map[oci.Repository]time.Time
	writing    map[oci.Digest]func()      // see claim
	donors     map[oci.Digest]*donor      // see mend
	unlocated  map[oci.Digest]struct{}    // damaged, and nobody knows where: see locate
	refreshing map[oci.Reference]struct{} // see refreshLater
	degraded   string                     // why nothing is kept
	trouble    string                     // why the last blob was not kept
	closing    bool

	rebuild  rebuild
	scrubbed scrubbed
	stalls   atomic.Int64 // operations of fills that the disk has not come back from

	// files is held while a file and what is known of it change together: a
	// removal, a promotion, a new label. One blob at a time. Taken before mu.
	files sync.Mutex
	// syncing is held by the one checkpoint that runs. Taken before files.
	syncing sync.Mutex
	renewed time.Time // when a broken index was last replaced; guarded by syncing
	indexed int64     // what the account has for the index; guarded by syncing

	wake   chan struct{} // a checkpoint is wanted now
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup // fills, shared requests, background questions, the rebuilding
	loops  sync.WaitGroup // the keeper, the evictor, the scrub
	stop   chan struct{}  // ends the loops
	chunks sync.Pool      // *[chunk]byte, one for each stream
	spans  sync.Pool      // *[span]byte, one for each fast one
	stats  counters
}

type counters struct {
	resumed, unverified, checkpoints, unbacked atomic.Uint64
	evictedBytes, evictedBlobs                 atomic.Uint64
	mended, stalled, damaged, panics           atomic.Uint64
	evictedAge                                 atomic.Int64 // nanoseconds
	readers                                    atomic.Int64
	byUpstream                                 sync.Map // upstream -> *upstreamCounters
}

type upstreamCounters struct {
	verifyFailures, stale, rangeAsked, rangeFetched atomic.Uint64

	held atomic.Int64 // nanoseconds
}

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
	c := newCache(o)
	if err := c.openDisk(); err != nil {
		c.cancel()
		return nil, err
	}
	if c.writable() {
		c.repin()
		c.loops.Add(2)
		go c.keep()
		go c.evict()
		if o.ScrubRate > 0 {
			c.loops.Add(1)
			go c.scrub()
		}
	}
	return c, nil
}

func newCache(o Options) *Cache {
	c := &Cache{
		o: o, log: o.Log, hot: newHotSet(o.HotBytes), paces: newPaces(), pins: newPins(),
		pending: map[oci.Digest]fresh{}, gone: map[oci.Digest]departed{}, doubted: map[oci.Digest]index.Record{},
		touched: map[oci.Digest]time.Time{}, newTags: map[oci.Reference]index.Tag{}, goneTags: map[oci.Reference]struct{}{},
		newGrant: map[oci.Digest]map[oci.Repository]time.Time{}, writing: map[oci.Digest]func(){},
		donors: map[oci.Digest]*donor{}, unlocated: map[oci.Digest]struct{}{}, refreshing: map[oci.Reference]struct{}{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	c.rebuild.again = make(chan struct{}, 1)
	// The sizes are constants above zero: New cannot fail.
	c.negative, _ = lru.New[question, refused](negativeKept)
	c.docs, _ = lru.New[string, *Document](documentsKept)
	c.grants, _ = lru.New[oci.Digest, holders](grantsKept)
	c.tags, _ = lru.New[oci.Reference, index.Tag](tagsKept)
	c.unverified, _ = lru.New[oci.Digest, time.Time](negativeKept)
	c.formers, _ = lru.New[oci.Reference, former](negativeKept)
	c.unkept, _ = lru.New[oci.Digest, time.Time](negativeKept)
	c.spans.New = func() any { return new([span]byte) }
	c.chunks.New = func() any { return new([chunk]byte) }
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// openDisk opens store and index, or notes why there is no disk to use.
func (c *Cache) openDisk() error {
	store, err := blob.Open(blob.Options{Dir: c.o.Dir, Limit: c.o.Limit, MinFree: c.o.MinFree, FS: c.o.fs})
	if errors.Is(err, blob.ErrLocked) || errors.Is(err, blob.ErrVersion) {
		return err
	}
	if err != nil {
		c.noDisk(err)
		return nil
	}
	if err := c.loadPins(store); err != nil {
		c.noDisk(errors.Join(err, store.Close()))
		return nil
	}
	c.o.index.Grew = func(int64) { c.countIndex() } // after each transaction
	if !store.ReadOnly() {
		c.o.index.Lost = c.recordLost
	}
	x, lost, err := openIndex(store, c.o)
	if err != nil {
		cerr := store.Close()
		if errors.Is(err, index.ErrVersion) || errors.Is(err, index.ErrLocked) {
			return errors.Join(err, cerr)
		}
		if store.ReadOnly() {
			err = fmt.Errorf("the file system is mounted read-only: %w", err)
		}
		c.noDisk(err)
		return nil
	}
	c.store = store
	c.idx.Store(x)
	recounted := c.rebuild.lost.Swap(false) // without the damaged records
	_, blobs := x.Totals().Sum()
	store.AddUsed(blobs)
	c.countIndex()
	if store.ReadOnly() {
		c.degraded = "the cache directory is on a file system mounted read-only; remount it and restart"
		c.log.Error("the cache directory is read-only: what is cached is served, all else is streamed and not kept", zap.String("dir", c.o.Dir))
		c.doubtFills()
		return nil
	}
	c.settle()
	if lost != nil {
		c.log.Error("the index is damaged and is built anew: blobs are hashed again", zap.Error(lost))
	}
	if recounted {
		if err := store.MarkUnproven(); err != nil {
			c.diskFailed("marking that blobs are to be recorded", err)
		}
	}
	if recounted || store.Unproven() {
		c.takeUp(c.o.asideBytes() > 0, true)
	}
	return nil
}

func (c *Cache) noDisk(err error) {
	c.degraded = err.Error()
	c.log.Error("the cache directory cannot be used: everything is streamed, nothing is kept", zap.String("dir", c.o.Dir), zap.Error(err))
}

// writable tells whether what is learnt can be recorded: nothing that waits for
// a checkpoint may gather otherwise.
func (c *Cache) writable() bool { return c.store != nil && !c.store.ReadOnly() }

// Close stops the fills, which stay on disk for the next start, writes a last
// checkpoint and lets go of the directory. Readers must have been closed.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.cancel()
	c.dropSalvage(nil)
	c.work.Wait()
	close(c.stop)
	c.loops.Wait()
	if c.store == nil {
		return nil
	}
	c.dropDonors()
	return errors.Join(c.idx.Load().Close(), c.store.Close())
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
	if _, _, err := c.idx.Load().Get(oci.FromBytes(nil)); err != nil {
		return fmt.Errorf("reading the index: %w", err)
	}
	return c.tryDisk()
}

// Stats counts.
func (c *Cache) Stats() Stats {
	n := &c.stats
	s := Stats{
		Limit:        c.o.Limit,
		EvictedBytes: n.evictedBytes.Load(), EvictedBlobs: n.evictedBlobs.Load(),
		EvictedAge:    time.Duration(n.evictedAge.Load()).Seconds(),
		FillsInFlight: int64(len(c.flights.All())), FlightReaders: n.readers.Load(),
		ResumedBytes: n.resumed.Load(), UnverifiedSent: n.unverified.Load(),
		Checkpoints: n.checkpoints.Load(), Unbacked: n.unbacked.Load(),
		Mended: n.mended.Load(), Stalled: n.stalled.Load(), Damaged: n.damaged.Load(), Panics: n.panics.Load(),
		VerifyFailures: map[string]uint64{}, StaleServed: map[string]uint64{},
		RangeAsked: map[string]uint64{}, RangeFetched: map[string]uint64{}, Held: map[string]float64{},
		Rebuild: c.rebuild.progress(), Scrub: c.scrubbed.progress(),
	}
	n.byUpstream.Range(func(k, v any) bool {
		name, u := k.(string), v.(*upstreamCounters)
		s.VerifyFailures[name], s.StaleServed[name] = u.verifyFailures.Load(), u.stale.Load()
		s.Held[name] = time.Duration(u.held.Load()).Seconds()
		s.RangeAsked[name], s.RangeFetched[name] = u.rangeAsked.Load(), u.rangeFetched.Load()
		return true
	})
	c.mu.Lock()
	for _, p := range c.pending {
		if !p.recorded {
			s.Blobs++
		}
	}
	s.Blobs -= int64(len(c.gone) + len(c.leaving))
	s.Degraded = c.degraded
	if s.Degraded == "" {
		s.Degraded = c.trouble
	}
	c.mu.Unlock()
	if c.store == nil {
		return s
	}
	u, w := c.store.Usage(), c.store.Stats()
	s.Bytes, s.Reserved, s.EvictedOpen = u.Used, u.Reserved, u.EvictedOpen
	s.Syncs = w.FilesSynced + w.FoldersSynced
	s.Commits = c.idx.Load().Stats().Commits
	recorded, _ := c.idx.Load().Totals().Sum()
	s.Blobs = max(s.Blobs+recorded, 0)
	return s
}
