package blob

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

const (
	layout      = 1 // what VERSION holds
	lockName    = "cistern.lock"
	versionName = "VERSION"
	cleanName   = "clean"
	bootName    = "boot"
	// indexName is counted by whoever writes it (AddUsed), not here; so is what
	// begins with it, an index put aside.
	indexName = "index.db"
	// lockPatience lets a process that is just ending go, and no more.
	lockPatience = 900 * time.Millisecond
	bootIDFile   = "/proc/sys/kernel/random/boot_id"
)

// Options says where a Store lives and how much it may take.
type Options struct {
	Dir     string                   // made if missing, mode 0700
	Limit   int64                    // allocated bytes of everything in Dir; 0: no limit
	MinFree func(fsSize int64) int64 // bytes to leave free on a file system of that size; nil: none
	Used    int64                    // allocated bytes of the blobs on record, and of the index
	FS      durable.FS               // nil: the real one on Dir; else Dir is only a name
}

// Store is one cache directory, held by one process. All methods may be called
// concurrently; those that write one digest (Create, Resume, Promote, Remove)
// exclude each other outside, by digest.
type Store struct {
	fs     durable.FS
	lock   io.Closer
	ledger *ledger
	opens  opens
	asides asides

	clean, sameBoot, moved, readOnly bool
	late                             bool // durable.SpaceIsLate
	bootID                           string

	mu       sync.Mutex              // guards what follows; taken before ledger.mu
	kept     map[oci.Digest]keptFile // files in fills/ that no Commit of this process made
	folders  map[string]int64        // allocated bytes of each shard folder
	beside   map[string]int64        // what the files beside the trees are counted for
	looked   map[string]bool         // folders that changed since Sync last looked at them
	unsynced map[string]bool         // folders that got a sub-folder since Sync

	shardsSeen bool // blobs/ had a folder at Open

	synced atomic.Pointer[time.Time] // when SyncAll began; nil: never

	counters counters
}

// keptFile is what lies in fills/ and counts as used.
type keptFile struct {
	size, allocated int64
	public          bool
	pieces          bool      // its piece state lies beside it
	own             bool      // this process wrote it
	touched         time.Time // when it was written to, or this process let go of it
}

type counters struct {
	filesSynced, foldersSynced, syncFailures, writeFailures, foreign atomic.Uint64
}

// Stats are counts since Open.
type Stats struct {
	FilesSynced   uint64 // fsync calls on files
	FoldersSynced uint64 // fsync calls on folders
	SyncFailures  uint64 // of both
	WriteFailures uint64 // fills that the disk did not take
	Foreign       uint64 // things met that are not ours: never touched
}

// Stats gives the counts so far.
func (s *Store) Stats() Stats {
	c := &s.counters
	return Stats{c.filesSynced.Load(), c.foldersSynced.Load(), c.syncFailures.Load(), c.writeFailures.Load(), c.foreign.Load()}
}

// Open takes the cache directory. It fails with ErrLocked within a second when
// another process has it, with ErrVersion when its layout is newer than this
// program, and with ErrDisk when it cannot be made or written. It looks at
// fills/ and at the folders of blobs/, not at the blobs.
//
// The mark of a clean stop is durably gone when Open returns.
func Open(o Options) (*Store, error) {
	id, err := os.ReadFile(bootIDFile)
	if err != nil {
		id = nil // no boot id: never the same boot
	}
	return open(o, strings.TrimSpace(string(id)))
}

func open(o Options, bootID string) (_ *Store, err error) {
	fsys := o.FS
	if fsys == nil {
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, diskError("make cache directory", err)
		}
		if fsys, err = durable.OpenDir(o.Dir); err != nil {
			return nil, diskError("open cache directory", err)
		}
	}
	s := &Store{
		fs: fsys, bootID: bootID,
		ledger: newLedger(o.Limit, o.MinFree, fsys.Free),
		opens:  opens{m: map[oci.Digest]*opened{}},
		kept:   map[oci.Digest]keptFile{}, folders: map[string]int64{}, beside: map[string]int64{},
		looked: map[string]bool{}, unsynced: map[string]bool{},
		late: durable.SpaceIsLate(fsys),
	}
	s.ledger.used = o.Used
	if err := s.begin(); err != nil {
		var lerr error
		if s.lock != nil {
			lerr = s.lock.Close()
		}
		return nil, fmt.Errorf("cache directory %s: %w", o.Dir, errors.Join(err, lerr, fsys.Close()))
	}
	return s, nil
}

func (s *Store) begin() (err error) {
	s.lock, err = s.fs.Lock(lockName, lockPatience)
	if errors.Is(err, durable.ErrLocked) {
		return fmt.Errorf("%w: %w; stop that process or give this one a directory of its own", ErrLocked, err)
	}
	if err != nil {
		return diskError("lock", err)
	}
	if err := s.checkVersion(); err != nil {
		return err
	}
	if _, err := s.fs.Lstat(cleanName); err == nil {
		s.clean = true
	}
	err = durable.RemoveDurable(s.fs, cleanName)
	s.readOnly = errors.Is(err, syscall.EROFS)
	if err != nil && !s.readOnly {
		return diskError("remove the mark of a clean stop", err)
	}
	if text, err := durable.ReadFile(s.fs, bootName); err == nil {
		boot, dir, known := strings.Cut(strings.TrimSpace(string(text)), " ")
		s.moved = known && dir != s.identity()
		s.sameBoot = s.bootID != "" && boot == s.boot() && !s.moved
	}
	return s.survey()
}

func (s *Store) checkVersion() error {
	text, err := durable.ReadFile(s.fs, versionName)
	if errors.Is(err, fs.ErrNotExist) {
		return diskError("write VERSION", durable.WriteFile(s.fs, versionName, []byte(strconv.Itoa(layout)+"\n")))
	}
	if err != nil {
		return diskError("read VERSION", err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(text)))
	switch {
	case err != nil || v < 1:
		return fmt.Errorf("%w: VERSION holds %q; write %d into it if this is a cache directory, or choose another", ErrVersion, text, layout)
	case v > layout:
		return fmt.Errorf("%w: it has layout %d, this program knows up to %d; run the newer program, or empty the directory", ErrVersion, v, layout)
	}
	return nil
}

// Close writes the mark of a clean stop and lets go of the directory. Files
// that readers have open stay readable. No other method may be called after it.
func (s *Store) Close() error {
	var err error
	if !s.readOnly { // there the mark is as it was
		err = diskError("write the mark of a clean stop", durable.WriteFile(s.fs, cleanName, nil))
	}
	return errors.Join(err, s.lock.Close(), s.fs.Close())
}

// Clean tells whether the process before this one ended by Close.
func (s *Store) Clean() bool { return s.clean }

// SameBoot tells whether the kernel has run without a break since Settle was
// last called by a process in this very directory: what a killed process wrote
// into fills/ is then still what it wrote. Otherwise, and in a copy or a
// snapshot, an unfinished fill may hold anything.
func (s *Store) SameBoot() bool { return s.sameBoot }

// ReadOnly tells whether the directory was found on a file system that is
// mounted for reading only: what is here can be read, and nothing else.
func (s *Store) ReadOnly() bool { return s.readOnly }

// Settle is called at start-up once nothing is left in fills/ that SameBoot
// forbids to trust; from here on what lies there is of this boot. It is not
// synced, on purpose: after a power cut the boot id differs anyway.
func (s *Store) Settle() error {
	f, err := s.fs.OpenFile(bootName, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return diskError("write the boot id", err)
	}
	_, err = io.WriteString(f, s.boot()+" "+s.identity()+"\n")
	return diskError("write the boot id", errors.Join(err, f.Close()))
}

// Pressure receives when space is wanted; then ask Wanted. Capacity 1.
func (s *Store) Pressure() <-chan struct{} { return s.ledger.pressure }

// Wanted is how many bytes the evictor should free now, so that all who wait
// are served and the cap's high watermark and min_free hold again.
func (s *Store) Wanted() int64 { return s.ledger.wanted() }

// AddUsed changes the account of bytes in the directory that the Store does not
// write itself: the index, and blobs found to be on record.
func (s *Store) AddUsed(delta int64) { s.ledger.addUsed(delta, false) }

// Usage is the account of space, in allocated bytes.
type Usage struct {
	Used        int64 // all that lies in the directory but is no open reservation
	Reserved    int64 // open reservations, whether written yet or not
	Limit       int64 // 0: none
	High        int64 // what may lie here for good: the watermark for eviction, or less where a reservation leaves more free; 0: no limit
	EvictedOpen int64 // of Used: removed, but still held by a reader
	Fixed       int64 // of Used: small files beside the trees
	FSSize      int64 // of the file system; 0 if it would not say
	FSFree      int64 // what it has left for us; 0 if it would not say
}

// Usage gives the account at this moment.
func (s *Store) Usage() Usage {
	l := s.ledger
	size, free, err := l.statfs()
	if err != nil {
		size, free = 0, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := Usage{Used: l.used, Reserved: l.reserved, Limit: l.limit, EvictedOpen: l.evictedOpen, Fixed: l.fixed, FSSize: size, FSFree: free}
	if l.limit > 0 {
		u.High = min(highFor(l.limit), l.limit-l.slackLocked(0))
	}
	return u
}

const (
	fillsDir = "fills"
	blobsDir = "blobs"
)

// place is the path of a digest under one of the two trees.
func place(tree string, d oci.Digest) string {
	h := d.Hex()
	return tree + "/" + d.Algorithm() + "/" + h[:2] + "/" + h
}

// withFolder runs op on a path; if the folder is missing it is made, once.
func (s *Store) withFolder(name string, op func() error) error {
	err := op()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := path.Dir(name)
	made, err := durable.MkdirAll(s.fs, dir)
	s.noteFolders(made)
	if err != nil {
		return err
	}
	return op()
}
