package blob

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// faulty is a durable.FS that notes each operation and fails the chosen one:
// undone, or done all the same.
type faulty struct {
	durable.FS
	err  error
	done bool // the operation that fails takes effect

	mu    sync.Mutex
	count int // operations so far
	fail  int // which one fails, from 1; 0: none
	trace []string
}

// do runs one operation, or fails it.
func (f *faulty) do(op string, run func() error) error {
	f.mu.Lock()
	f.count++
	failing := f.count == f.fail
	f.trace = append(f.trace, op)
	f.mu.Unlock()
	if failing && !f.done {
		return f.err
	}
	err := run()
	if failing && err == nil {
		return f.err
	}
	return err
}

func (f *faulty) OpenFile(name string, flag int, perm fs.FileMode) (file durable.File, err error) {
	op := "open "
	if flag&os.O_CREATE != 0 {
		op = "create "
	}
	err = f.do(op+name, func() error {
		file, err = f.FS.OpenFile(name, flag, perm)
		return err
	})
	if err != nil && file != nil {
		return nil, errors.Join(err, file.Close())
	}
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f, name}, nil
}

func (f *faulty) Mkdir(name string) error {
	return f.do("mkdir "+name, func() error { return f.FS.Mkdir(name) })
}

func (f *faulty) Rename(from, to string) error {
	return f.do("rename "+to, func() error { return f.FS.Rename(from, to) })
}

func (f *faulty) Remove(name string) error {
	return f.do("remove "+name, func() error { return f.FS.Remove(name) })
}

func (f *faulty) SyncDir(name string) error {
	return f.do("syncdir "+name, func() error { return f.FS.SyncDir(name) })
}

func (f *faulty) Lock(name string, patience time.Duration) (c io.Closer, err error) {
	err = f.do("lock "+name, func() error {
		c, err = f.FS.Lock(name, patience)
		return err
	})
	if err != nil && c != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, err
}

func (f *faulty) Free() (size, free int64, err error) {
	err = f.do("free", func() error {
		size, free, err = f.FS.Free()
		return err
	})
	return size, free, err
}

type faultyFile struct {
	durable.File
	fs   *faulty
	name string
}

func (f *faultyFile) Write(p []byte) (n int, err error) {
	err = f.fs.do("write "+f.name, func() error {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

func (f *faultyFile) Sync() error { return f.fs.do("fsync "+f.name, f.File.Sync) }

// story is a life of the store: two starts, fills of all endings, a checkpoint,
// an eviction. It goes on after errors as the cache does, and fails the test
// for anything that is not what the error says.
func story(t *testing.T, dir string, f *faulty) {
	t.Helper()
	recorded := map[oci.Digest]int64{}
	for round := range 2 {
		var err error
		if f.FS, err = durable.OpenDir(dir); err != nil {
			t.Fatal(err)
		}
		var used int64
		for _, n := range recorded {
			used += n
		}
		s, err := open(Options{Dir: dir, FS: f, Limit: 1 << 30, Used: used}, testBoot)
		if err != nil {
			mustBe(t, err)
			continue
		}
		for d, size := range s.Fills() {
			if recorded[d] > 0 && size == 5000 {
				mustBe(t, s.Promote(d))
			}
		}
		mustBe(t, s.Settle())
		for i := range 4 {
			d := digest(10*round + i)
			allocated, ok := fill(t, s, d, i)
			if !ok {
				continue
			}
			if err := s.Sync([]oci.Digest{d})[d]; err != nil {
				mustBe(t, err)
				mustBe(t, s.Remove(d, allocated))
				continue
			}
			recorded[d] = allocated
			mustBe(t, s.Promote(d))
		}
		checkRecorded(t, s, recorded)
		for d, allocated := range recorded {
			mustBe(t, s.Remove(d, allocated))
			delete(recorded, d) // an error does not say that it is still there
			break
		}
		checkLedger(t, s)
		mustBe(t, s.Close())
	}
}

// fill writes a blob, or only a part of it that is kept or aborted.
func fill(t *testing.T, s *Store, d oci.Digest, ending int) (allocated int64, ok bool) {
	t.Helper()
	r, err := s.Reserve(t.Context(), 5000)
	if err != nil {
		mustBe(t, err)
		return 0, false
	}
	in, err := s.Create(d, r)
	if err != nil {
		mustBe(t, err)
		return 0, false
	}
	_, err = in.Write(content(1, 5000))
	switch {
	case err != nil || ending == 2:
		mustBe(t, errors.Join(err, in.Abort()))
		return 0, false
	case ending == 3:
		mustBe(t, in.Keep())
		return 0, false
	}
	allocated, err = in.Commit()
	mustBe(t, err)
	return allocated, err == nil
}

// mustBe accepts what a failing disk may be called: nothing or an ErrDisk.
func mustBe(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, ErrDisk) {
		t.Errorf("not an ErrDisk: %v", err)
	}
}

// checkRecorded: what has a record is whole and readable, wherever it lies.
func checkRecorded(t *testing.T, s *Store, recorded map[oci.Digest]int64) {
	t.Helper()
	for d := range recorded {
		f, err := s.OpenFile(d)
		if err != nil {
			if !errors.Is(err, ErrDisk) { // the injected failure
				t.Errorf("lost: %v", err)
			}
			continue
		}
		if b, err := io.ReadAll(f); err != nil || string(b) != string(content(1, 5000)) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func checkLedger(t *testing.T, s *Store) {
	t.Helper()
	l := s.ledger
	if l.reserved != 0 || l.written != 0 || l.evictedOpen != 0 || l.used < 0 || len(s.opens.m) != 0 {
		t.Errorf("reserved %d, written %d, evicted but open %d, used %d, readers %d", l.reserved, l.written, l.evictedOpen, l.used, len(s.opens.m))
	}
}

// FAULTS rows 30 to 33, goal G3: the n-th operation fails, for every n until a
// run meets no failure, as an error and as an error of something that was done.
func TestEveryOperationFailsOnce(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} {
		for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
			for n := 1; ; n++ {
				f := &faulty{err: errno, fail: n, done: done}
				story(t, t.TempDir(), f)
				if t.Failed() {
					t.Fatalf("operation %d (%s) failing with %v, done %v", n, f.trace[min(n, len(f.trace))-1], errno, done)
				}
				if f.count < n {
					if n < 100 {
						t.Errorf("only %d operations: the story is not told", f.count)
					}
					break
				}
			}
		}
	}
}

// The order of operations that durability rests on: nothing is promoted, or
// may be recorded, before its bytes, its name and its folders' names are down.
func TestOrderOfOperations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real, err := durable.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{FS: real}
	s, err := open(Options{Dir: dir, FS: f}, testBoot)
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	d := digest(1)
	fill, blob := place(fillsDir, d), place(blobsDir, d)
	steps := func(run func()) string {
		f.trace = nil
		run()
		return strings.Join(f.trace, "\n")
	}
	shard := strings.TrimSuffix(fill, "/"+d.Hex())
	if got, want := steps(func() { put(t, s, d, []byte("x")) }), strings.Join([]string{
		"free", "create " + fill, "mkdir " + shard, "mkdir fills/sha256", "mkdir fills", "mkdir fills/sha256", "mkdir " + shard, "create " + fill, "write " + fill,
	}, "\n"); got != want {
		t.Errorf("a fill waits for the disk?\n%s\nwant\n%s", got, want)
	}
	got := steps(func() { s.Sync([]oci.Digest{d}) })
	for i, want := range []string{"open " + fill + "\nfsync " + fill + "\nsyncdir " + shard + "\n", "syncdir fills/sha256", "syncdir fills", "syncdir ."} {
		if !strings.Contains(got+"\n", want) || i == 0 && !strings.HasPrefix(got, want) {
			t.Errorf("sync does %q, want %q", got, want)
		}
	}
	if got := steps(func() { s.Sync([]oci.Digest{d}) }); strings.Count(got, "syncdir") != 1 {
		t.Errorf("folders that are durable are synced again: %s", got)
	}
	if got := steps(func() { lastingPromote(t, s, d) }); strings.Contains(got, "sync") || !strings.HasSuffix(got, "rename "+blob) {
		t.Errorf("promotion: %s", got)
	}
}

func lastingPromote(t *testing.T, s *Store, d oci.Digest) {
	t.Helper()
	if err := s.Promote(d); err != nil {
		t.Fatal(err)
	}
}

// A file whose fsync fails is named, the others are not; a folder's failure is
// that of all its files.
func TestSyncNamesTheFailed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real, err := durable.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{FS: real, err: syscall.EIO}
	s, err := open(Options{Dir: dir, FS: f}, testBoot)
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	var ds []oci.Digest
	for i := range 50 {
		ds = append(ds, digest(i))
		put(t, s, ds[i], []byte("x"))
	}
	f.fail = f.count + 20 // an open or an fsync of one of the fifty
	failed := s.Sync(ds)
	if len(failed) != 1 || s.Stats().SyncFailures != 1 {
		t.Errorf("%d failed: %v", len(failed), failed)
	}
	for d, err := range failed {
		if !errors.Is(err, ErrDisk) || !errors.Is(err, syscall.EIO) {
			t.Errorf("%v: %v", d, err)
		}
	}
}
