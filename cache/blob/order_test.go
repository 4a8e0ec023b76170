package blob

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// steps runs something and gives the operations that change the disk or ask for
// its space, one in a line.
func steps(f *durabletest.Faulty, run func()) string {
	before := f.Count()
	run()
	var ops []string
	for _, op := range f.Trace()[before:] {
		if !slices.Contains([]string{"stat", "lstat", "close", "seek"}, op.Kind) {
			ops = append(ops, op.String())
		}
	}
	return strings.Join(ops, "\n")
}

func openFaulty(t *testing.T) (*Store, *durabletest.Faulty) {
	t.Helper()
	f := &durabletest.Faulty{FS: durabletest.New(durabletest.Options{})}
	s, err := open(Options{Dir: "memory", FS: f}, testBoot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	if failed := s.Sync(nil); len(failed) > 0 { // what an earlier process may have left
		t.Fatal(failed)
	}
	return s, f
}

// The order of operations that durability rests on: nothing is promoted, or
// may be recorded, before its bytes, its name and its folders' names are down.
func TestOrderOfOperations(t *testing.T) {
	t.Parallel()
	s, f := openFaulty(t)
	d := digest(1)
	fill, blob := place(fillsDir, d), place(blobsDir, d)
	shard := strings.TrimSuffix(fill, "/"+d.Hex())
	if got, want := steps(f, func() { put(t, s, d, []byte("x")) }), strings.Join([]string{
		"free ", "create " + fill, "mkdir " + shard, "mkdir fills/sha256", "mkdir fills", "mkdir fills/sha256", "mkdir " + shard, "create " + fill, "write " + fill,
	}, "\n"); got != want {
		t.Errorf("a fill waits for the disk?\n%s\nwant\n%s", got, want)
	}
	got := steps(f, func() { s.Sync([]oci.Digest{d}) })
	for i, want := range []string{"open " + fill + "\nfsync " + fill + "\nsyncdir " + shard + "\n", "syncdir fills/sha256", "syncdir fills", "syncdir ."} {
		if !strings.Contains(got+"\n", want) || i == 0 && !strings.HasPrefix(got, want) {
			t.Errorf("sync does %q, want %q", got, want)
		}
	}
	if got := steps(f, func() { s.Sync([]oci.Digest{d}) }); strings.Count(got, "syncdir") != 1 {
		t.Errorf("folders that are durable are synced again: %s", got)
	}
	if got := steps(f, func() {
		if err := s.Promote(d); err != nil {
			t.Error(err)
		}
	}); strings.Contains(got, "sync") || !strings.HasSuffix(got, "rename "+blob) {
		t.Errorf("promotion: %s", got)
	}
}

// A file whose fsync fails is named, the others are not, and it is not asked
// again: that would say yes, and lie.
func TestSyncNamesTheFailed(t *testing.T) {
	t.Parallel()
	s, f := openFaulty(t)
	var ds []oci.Digest
	for i := range 50 {
		ds = append(ds, digest(i))
		put(t, s, ds[i], []byte("x"))
	}
	bad := place(fillsDir, ds[20])
	asked := 0
	f.Choose = func(op durabletest.Op) *durabletest.Fault {
		if op.Kind != "fsync" || op.Name != bad {
			return nil
		}
		if asked++; asked > 1 {
			return nil
		}
		return &durabletest.Fault{Err: syscall.EIO}
	}
	failed := s.Sync(ds)
	if len(failed) != 1 || s.Stats().SyncFailures != 1 {
		t.Errorf("%d failed: %v", len(failed), failed)
	}
	if err := failed[ds[20]]; !errors.Is(err, ErrDisk) || !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
}

// Folders are synced from above: what was renamed into a new one is lost with it, if its own name is not durable when its
// content is.
func TestFoldersAreSyncedFromAbove(t *testing.T) {
	t.Parallel()
	for range 20 {
		s, f := openFaulty(t)
		put(t, s, digest(1), []byte("x"))
		lasting(t, s, digest(1))
		if got, want := steps(f, func() { s.Sync(nil) }), "syncdir .\nsyncdir blobs\nsyncdir blobs/sha256"; got != want {
			t.Fatalf("the order is\n%s\nwant\n%s", got, want)
		}
	}
}

// A folder whose sync failed names nothing durably: what comes into it later does not pass before it did.
func TestFailedFolderIsSyncedAgain(t *testing.T) {
	t.Parallel()
	s, f := openFaulty(t)
	first, second := digest(1), digest(2)
	for i := 3; second.Hex()[:2] != first.Hex()[:2]; i++ {
		second = digest(i)
	}
	put(t, s, first, []byte("x"))
	f.Choose = func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "syncdir" && op.Name == "fills/sha256" {
			return &durabletest.Fault{Err: syscall.EIO}
		}
		return nil
	}
	if failed := s.Sync([]oci.Digest{first}); failed[first] == nil {
		t.Error("a blob passes whose folder has no durable name")
	}
	put(t, s, second, []byte("y"))
	if failed := s.Sync([]oci.Digest{second}); failed[second] == nil {
		t.Error("the next one does")
	}
	f.Choose = nil
	lasting(t, s, second)
}

// FAULTS row 44: a panic in the fsync of a file is an error of that file.
func TestSyncPanics(t *testing.T) {
	t.Parallel()
	s, f := openFaulty(t)
	put(t, s, digest(1), []byte("x"))
	put(t, s, digest(2), []byte("y"))
	f.Choose = func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "fsync" && op.Name == place(fillsDir, digest(1)) {
			return &durabletest.Fault{Panic: "thrown"}
		}
		return nil
	}
	if failed := s.Sync([]oci.Digest{digest(1), digest(2)}); len(failed) != 1 || failed[digest(1)] == nil {
		t.Errorf("%v", failed)
	}
}

// FAULTS row 38: a write that does not come back holds nobody else up.
func TestStalledWriteHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	s, f := openFaulty(t)
	put(t, s, digest(1), []byte("one"))
	slow, begun, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	f.Choose = func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "write" && op.Name == place(fillsDir, digest(2)) {
			close(begun)
			return &durabletest.Fault{Stall: slow}
		}
		return nil
	}
	in, err := s.Create(digest(2), reserve(t, s, 3))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(ended)
		if _, err := in.Write([]byte("two")); err != nil {
			t.Error(err)
		}
	}()
	<-begun
	if got, err := read(t, s, digest(1)); got != "one" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	put(t, s, digest(3), []byte("three"))
	lasting(t, s, digest(1), digest(3))
	if err := s.Remove(digest(3), 4096); err != nil {
		t.Error(err)
	}
	close(slow)
	<-ended
	if _, err := in.Commit(); err != nil {
		t.Error(err)
	}
}
