package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"cistern/internal/oci"
)

const (
	layout      = 1
	lockTimeout = time.Second
	// mapSize is mapped at once (address space, not memory): a later, larger
	// mapping would wait for all readers and hold up new ones. Some two million
	// records fit.
	mapSize = 1 << 30
)

// The names of buckets and of the keys of meta.
var (
	bucketMeta    = []byte("meta")
	bucketNames   = []byte("names")
	bucketIDs     = []byte("ids")
	bucketBlobs   = []byte("blobs")
	bucketRecency = []byte("recency")
	bucketTags    = []byte("tags")
	bucketGrants  = []byte("grants")
	keyVersion    = []byte("version")
	keyTotals     = []byte("totals")

	bucketDeparted   = []byte("departed")
	bucketDepartures = []byte("departures")
)

// buckets are what every index has had from the start; see addedBuckets.
func buckets() [][]byte {
	return [][]byte{bucketMeta, bucketNames, bucketIDs, bucketBlobs, bucketRecency, bucketTags, bucketGrants}
}

// Index is an open index file. All methods may be called concurrently; a call
// that reads waits for no commit.
type Index struct {
	path  string
	o     Options
	fresh bool
	file  *os.File // bbolt's own, for Close of a broken index and for its size
	db    *bolt.DB

	onGrow func(int64) // Options.Grew once the index is open

	applyMu sync.Mutex // one Apply at a time, so that nobody waits inside bbolt; before beginMu
	beginMu sync.Mutex // see begin; guards closed
	closed  bool

	broken atomic.Pointer[error]
	totals atomic.Pointer[Totals]
	size   atomic.Int64

	names nameCache

	badMu sync.Mutex // guards bad
	bad   map[badKey]struct{}

	commits, badValues, refused atomic.Uint64
}

// Options change how an index works. The zero value is right; most are for tests.
type Options struct {
	// Hook runs each call into the file in the caller's stead; nil runs it as
	// it is. It may call once, or not, return an error of its own, or panic,
	// which breaks the index as a panic of bbolt does. It is called
	// concurrently. The op is "open", "read", "create" or "recount" (all within
	// Open; the latter two of a file that has nothing, or lost its totals),
	// "get", "tag", "tags" (a page of them), "grant", "victims" or "apply" (one
	// transaction: more than a thousand touches are several). Close has none.
	Hook func(op string, call func() error) error
	// NoSync leaves out every fsync: nothing is durable.
	NoSync bool
	// ReadOnly, which production sets too, is for a file system that is mounted
	// for reading only: the file must be there and whole, nothing is written to
	// it, and Apply fails with EROFS. It is kept from whoever writes all the same.
	ReadOnly bool
	// Grew, which production sets too, is told after each transaction by how
	// much Footprint changed since Open; nil: nobody. It must not call Apply.
	Grew func(bytes int64)
	// Lost, which production sets too, is told each time that a blob's record is
	// met damaged, which the next Apply deletes: the blob's file is one without a
	// record then. nil: nobody. It is called concurrently, within Open too, and
	// must not call the Index.
	Lost func()
}

// Open opens the index at path, or makes a new one, mode 0600. It fails within
// a second with ErrLocked when another process has it, with ErrVersion when it
// is newer than this program, with ErrBroken when it is damaged; the error of
// the file system otherwise. When it returns, the file is durable.
//
// With ReadOnly it makes nothing, and takes the lock that readers share: flock
// writes nothing.
func Open(path string, o Options) (*Index, error) {
	x := &Index{path: path, o: o, bad: map[badKey]struct{}{}}
	x.totals.Store(&Totals{})
	err := x.guard("open", func() (err error) {
		x.db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout: lockTimeout, InitialMmapSize: mapSize, FreelistType: bolt.FreelistMapType, NoStatistics: true,
			NoSync: o.NoSync, ReadOnly: o.ReadOnly,
			OpenFile: x.openFile,
		})
		return classify(err)
	})
	if err == nil {
		err = x.prepare()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open index %s: %w", path, err), x.Close())
	}
	x.onGrow = o.Grew
	return x, nil
}

// openFile opens the file for bbolt, which would write into an empty one.
func (x *Index) openFile(name string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, mode)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); x.o.ReadOnly && (err != nil || fi.Size() == 0) {
		return nil, errors.Join(&fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}, err, f.Close())
	}
	x.file = f
	return f, nil
}

// classify tells bbolt's complaints about the file's content from those of the
// file system.
func classify(err error) error {
	var pe *fs.PathError
	var errno syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrLocked
	case errors.As(err, &pe), errors.As(err, &errno):
		return err
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

// prepare makes what a new file lacks and reads what an old one says of itself.
func (x *Index) prepare() error {
	version := uint32(layout)
	var totals Totals
	known := false
	err := x.view("read", func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			x.fresh = true
			return nil
		}
		body, ok := unseal(keyVersion, meta.Get(keyVersion))
		if !ok || len(body) != 4 {
			return fmt.Errorf("%w: it does not say which version it is", ErrBroken)
		}
		version = be32(body)
		if totals, known = decodeTotals(keyTotals, meta.Get(keyTotals)); !known && x.o.ReadOnly {
			totals, known = x.count(tx), true
		}
		for _, name := range buckets() {
			if tx.Bucket(name) == nil && version == layout {
				return fmt.Errorf("%w: it has no bucket %q", ErrBroken, name)
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case version > layout:
		return fmt.Errorf("%w: version %d, this program knows %d; run the newer program, or move the file away and lose tags and the order of use", ErrVersion, version, layout)
	case x.fresh:
		if err := x.update("create", create, nil); err != nil {
			return err
		}
		known = true
	}
	if !known {
		if err := x.update("recount", func(tx *bolt.Tx) error { totals = x.count(tx); return putTotals(tx, totals) }, nil); err != nil {
			return err
		}
	}
	x.totals.Store(&totals)
	x.measure()
	if x.o.NoSync || x.o.ReadOnly {
		return nil
	}
	return syncFolder(filepath.Dir(x.path)) // bbolt syncs the file, not its name
}

func create(tx *bolt.Tx) error {
	for _, name := range buckets() {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	if err := putTotals(tx, Totals{}); err != nil {
		return err
	}
	return tx.Bucket(bucketMeta).Put(keyVersion, seal(keyVersion, binary.BigEndian.AppendUint32(nil, layout)))
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close waits for calls that are under way and closes the file. Of a broken
// index only the descriptor and the lock are given back; the mapping stays
// until the process ends, since nobody knows who is still in it.
func (x *Index) Close() error {
	x.applyMu.Lock()
	defer x.applyMu.Unlock()
	x.beginMu.Lock()
	if x.closed {
		x.beginMu.Unlock()
		return nil
	}
	x.closed = true
	x.beginMu.Unlock()
	if x.db == nil { // Open failed
		if x.file != nil && x.Broken() != nil {
			_ = x.letGo() // in vain if bbolt has closed it
		}
		return nil
	}
	err := x.fence("close", x.db.Close)
	if errors.Is(err, ErrBroken) {
		return x.letGo()
	}
	return err
}

// letGo closes the file without bbolt. The mapping keeps the open file alive,
// and with it the lock: that has to be undone by name.
func (x *Index) letGo() error {
	return errors.Join(syscall.Flock(int(x.file.Fd()), syscall.LOCK_UN), x.file.Close())
}

// Broken is nil, or an ErrBroken with what broke the index.
func (x *Index) Broken() error {
	if b := x.broken.Load(); b != nil {
		return *b
	}
	return nil
}

// Fresh tells whether Open found no index, or an empty file, and made one: what
// lies in the cache directory is then unknown to it.
func (x *Index) Fresh() bool { return x.fresh }

// Path is the file's name, as given to Open.
func (x *Index) Path() string { return x.path }

// FileSize is what the file takes on disk, in allocated bytes, as of the last
// commit: bbolt extends it in steps of 16 MiB that take nothing until written.
func (x *Index) FileSize() int64 { return x.size.Load() }

const (
	// rewritten bounds what a transaction writes anew of what there is: each of
	// its thousand entries changes three leaves, each with a page above it. Seen
	// are 15 MiB, with none of the free pages fit for use.
	rewritten = 24 << 20
	// added bounds what a transaction adds: a thousand entries, in pages half
	// full, and their names.
	added = 1 << 20
	// freelistShare of the file is the list of its free pages at most, which
	// each transaction writes in one piece.
	freelistShare = 512
)

// Footprint is FileSize and what the next transaction may add to it, the pages
// that it changes being written to other places: at most as much again as there
// is, and once more where pages are split.
func (x *Index) Footprint() int64 {
	n := x.size.Load()
	return n + min(2*n, rewritten) + n/freelistShare + added
}

func (x *Index) measure() {
	fi, err := x.file.Stat()
	if err != nil {
		return // the last size stands
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		x.size.Store(st.Blocks * 512)
	}
}

// grew measures after a transaction, also one that failed half way.
func (x *Index) grew() {
	before := x.Footprint()
	x.measure()
	if n := x.Footprint() - before; n != 0 && x.onGrow != nil {
		x.onGrow(n)
	}
}

// Totals counts blobs and their allocated bytes; O(1), of the last commit.
func (x *Index) Totals() Totals { return *x.totals.Load() }

// Stats gives the counts so far.
func (x *Index) Stats() Stats {
	return Stats{x.commits.Load(), x.badValues.Load(), x.refused.Load()}
}

// Get looks a blob up. A value that is damaged is a miss.
func (x *Index) Get(d oci.Digest) (r Record, found bool, err error) {
	if d.IsZero() {
		return Record{}, false, nil
	}
	err = x.view("get", func(tx *bolt.Tx) error {
		key := digestKey(d)
		s, ok := x.record(tx, key)
		if !ok {
			return nil
		}
		r, found = x.full(tx, key, d, s)
		return nil
	})
	return r, found, err
}

// Known tells of each digest whether Get would find it, in one transaction: for
// thousands of digests, best in their order.
func (x *Index) Known(ds []oci.Digest) (known []bool, err error) {
	known = make([]bool, len(ds))
	err = x.view("get", func(tx *bolt.Tx) error {
		for i, d := range ds {
			if d.IsZero() {
				continue
			}
			key := digestKey(d)
			if s, ok := x.record(tx, key); ok {
				_, known[i] = x.full(tx, key, d, s)
			}
		}
		return nil
	})
	return known, err
}

// record reads a blob's value; a damaged one is noted and missing.
func (x *Index) record(tx *bolt.Tx, key []byte) (stored, bool) {
	v := tx.Bucket(bucketBlobs).Get(key)
	if v == nil {
		return stored{}, false
	}
	s, ok := decodeRecord(key, v)
	if !ok {
		x.noteBad(bucketBlobs, key)
	}
	return s, ok
}

// full resolves the names of a record.
func (x *Index) full(tx *bolt.Tx, key []byte, d oci.Digest, s stored) (Record, bool) {
	mediaType, ok1 := x.names.text(tx, s.mediaType)
	origin, ok2 := x.names.text(tx, s.origin)
	if !ok1 || !ok2 {
		x.noteBad(bucketBlobs, key)
		return Record{}, false
	}
	return s.full(d, mediaType, origin), true
}
