package durabletest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"cistern/internal/durable"
)

// outcomes crashes a file system many times and counts what is found.
func outcomes(f *FS, look func(*FS) string) map[string]int {
	found := map[string]int{}
	for seed := range 400 {
		found[look(f.Crash(seeded(uint64(seed))))]++
	}
	return found
}

// expect compares the outcomes that came up with those that may and must.
func expect(t *testing.T, what string, found map[string]int, all ...string) {
	t.Helper()
	for _, o := range all {
		if found[o] == 0 {
			t.Errorf("%s: never %q", what, o)
		}
		delete(found, o)
	}
	if len(found) > 0 {
		t.Errorf("%s: also %v", what, found)
	}
}

const absent = "(no such file or directory)"

// All that was there when SyncAll was called is there after a power cut: data,
// names, folders, a rename; what came later may not be.
func TestCrashAfterSyncAll(t *testing.T) {
	t.Parallel()
	f := New(Options{})
	must(t, f.Mkdir("a"), f.Mkdir("b"))
	put(t, f, "a/x", blocks("ab"))
	put(t, f, "b/gone", "z")
	must(t, f.Rename("a/x", "b/x"), f.Remove("b/gone"), f.SyncAll())
	put(t, f, "b/later", "c")
	expect(t, "before", outcomes(f, func(f *FS) string {
		return letters(get(f, "b/x")) + " " + get(f, "a/x") + " " + get(f, "b/gone")
	}), "ab "+absent+" "+absent)
	expect(t, "later", outcomes(f, func(f *FS) string { return get(f, "b/later") }), absent, "", "c", "\x00")
}

// FAULTS 0.5: what was synced is there; a name without its data is an empty
// file or one of zeros; data without its name is nothing.
func TestCrashOfOneFile(t *testing.T) {
	t.Parallel()
	text := blocks("ab")
	for _, c := range []struct {
		what       string
		file, name bool
		want       []string
	}{
		{"nothing synced", false, false, []string{absent, "", "ab", "00", "a0", "0b", "a", "0"}},
		{"file synced", true, false, []string{absent, "ab"}},
		{"name synced", false, true, []string{"", "ab", "00", "a0", "0b", "a", "0"}},
		{"both synced", true, true, []string{"ab"}},
	} {
		f := New(Options{})
		put(t, f, "x", text)
		if c.file {
			must(t, durable.SyncFile(f, "x"))
		}
		if c.name {
			must(t, f.SyncDir("."))
		}
		expect(t, c.what, outcomes(f, func(f *FS) string {
			got := get(f, "x")
			if got == absent {
				return got
			}
			return letters(got)
		}), c.want...)
	}
}

// Writing over what is synced leaves any mixture of the old and the new.
func TestCrashOfAnOverwrite(t *testing.T) {
	t.Parallel()
	f := New(Options{})
	h := create(t, f, "x", blocks("ab"))
	_, err := h.Seek(0, io.SeekStart)
	must(t, h.Sync(), f.SyncDir("."), err)
	_, err = io.WriteString(h, blocks("AB"))
	must(t, err)
	look := func(f *FS) string { return letters(get(f, "x")) }
	expect(t, "overwritten", outcomes(f, look), "ab", "AB", "aB", "Ab")

	f = New(Options{})
	h = create(t, f, "x", blocks("abc"))
	must(t, h.Sync(), f.SyncDir("."), h.Truncate(blockSize))
	expect(t, "cut", outcomes(f, look), "abc", "a")
	must(t, f.Crash(seeded(1)).Close())
	if err := h.Sync(); !errors.Is(err, ErrOff) {
		t.Errorf("sync after the crash: %v", err)
	}
}

// A rename is one step: the file has one of the two names, and a name that was
// there before is always there.
func TestCrashOfARename(t *testing.T) {
	t.Parallel()
	for synced, want := range map[string][]string{
		"": {"new/old", absent + "/new"}, "a": {absent + "/new"}, "b": {absent + "/new"}, ".": {"new/old", absent + "/new"},
	} {
		f := New(Options{})
		must(t, f.Mkdir("a"), f.Mkdir("b"))
		put(t, f, "a/x", "new")
		put(t, f, "b/x", "old")
		must(t, durable.SyncFile(f, "a/x"), durable.SyncFile(f, "b/x"), f.SyncDir("a"), f.SyncDir("b"), f.SyncDir("."))
		must(t, f.Rename("a/x", "b/x"))
		if synced != "" {
			must(t, f.SyncDir(synced))
		}
		expect(t, "synced "+synced, outcomes(f, func(f *FS) string { return get(f, "a/x") + "/" + get(f, "b/x") }), want...)
	}
}

// A folder's name is to be synced as well, and syncing one folder leaves the
// names in others alone.
func TestCrashOfFolders(t *testing.T) {
	t.Parallel()
	f := New(Options{})
	must(t, f.Mkdir("a"), f.Mkdir("b"))
	put(t, f, "a/x", "x")
	put(t, f, "b/x", "x")
	must(t, durable.SyncFile(f, "a/x"), durable.SyncFile(f, "b/x"), f.SyncDir("a"))
	look := func(f *FS) string { return get(f, "a/x") + "/" + get(f, "b/x") }
	expect(t, "without the root", outcomes(f, look), "x/x", "x/"+absent, absent+"/x", absent+"/"+absent)
	f = f.Kill()
	must(t, f.SyncDir("."))
	expect(t, "with the root", outcomes(f, look), "x/x", "x/"+absent)
}

// What is moved into a folder that is new is in the one place or in the other;
// what is made there may be nowhere.
func TestCrashOfAMoveIntoANewFolder(t *testing.T) {
	t.Parallel()
	for _, synced := range []string{"", "a", "old", "a/b"} {
		f := New(Options{})
		must(t, f.Mkdir("old"))
		put(t, f, "old/x", "x")
		must(t, durable.SyncFile(f, "old/x"), f.SyncDir("old"), f.SyncDir("."))
		must(t, f.Mkdir("a"), f.Mkdir("a/b"), f.Rename("old/x", "a/b/x"))
		look := func(f *FS) string { return get(f, "old/x") + "/" + get(f, "a/b/x") }
		if synced == "a" { // the folder below is stable then, and this one is not
			must(t, f.SyncDir(synced))
		}
		if synced == "" || synced == "a" {
			expect(t, "not synced", outcomes(f, look), "x/"+absent, absent+"/x")
			continue
		}
		must(t, f.SyncDir(synced))
		expect(t, "synced "+synced, outcomes(f, look), absent+"/x")
	}
}

// Removal comes back unless it is synced, and a new file of that name does not
// come without it.
func TestCrashOfARemoval(t *testing.T) {
	t.Parallel()
	f := New(Options{})
	put(t, f, "x", "old")
	must(t, durable.SyncFile(f, "x"), f.SyncDir("."), f.Remove("x"))
	look := func(f *FS) string { return get(f, "x") }
	expect(t, "removed", outcomes(f, look), "old", absent)
	f = f.Kill()
	put(t, f, "x", "new")
	must(t, durable.SyncFile(f, "x"))
	expect(t, "made again", outcomes(f, look), "old", absent, "new")
	f = f.Kill()
	must(t, f.SyncDir("."))
	expect(t, "synced", outcomes(f, look), "new")
}

// FAULTS 0.4: after a failed fsync the data reads well, a second one says yes,
// and the data is not there.
func TestFailedSyncLoses(t *testing.T) {
	t.Parallel()
	memory := New(Options{})
	f := &Faulty{FS: memory}
	h := create(t, f, "x", blocks("a"))
	must(t, f.SyncDir("."))
	f.Choose = Nth(f.Count()+1, Fault{Err: syscall.EIO})
	if err := h.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	_, err := io.WriteString(h, blocks("b"))
	must(t, err, h.Sync())
	if got := letters(get(f, "x")); got != "ab" {
		t.Errorf("before: %s", got)
	}
	expect(t, "crash", outcomes(memory.Kill(), func(f *FS) string { return letters(get(f, "x")) }), "0b")
}

func TestDropCaches(t *testing.T) {
	t.Parallel()
	f := New(Options{})
	h := create(t, f, "x", blocks("ab"))
	must(t, h.Sync())
	_, err := h.Seek(blockSize, io.SeekStart)
	must(t, err)
	_, err = io.WriteString(h, blocks("BC"))
	must(t, err)
	h.(*file).loseDirty()
	must(t, h.Sync())
	if got := letters(get(f, "x")); got != "aBC" {
		t.Errorf("before: %s", got)
	}
	f.DropCaches()
	if got := letters(get(f, "x")); got != "ab0" {
		t.Errorf("after: %s", got)
	}
	must(t, h.Close())
}

// A killed process leaves what it wrote, and takes its locks, its open files
// and the space of those without a name with it.
func TestKill(t *testing.T) {
	t.Parallel()
	f := New(Options{})
	lock, err := f.Lock("lock", 0)
	must(t, err)
	h := create(t, f, "x", blocks("a"))
	gone := create(t, f, "y", blocks("bcd"))
	must(t, f.Remove("y"))
	if used := f.Used(); used != 4*blockSize {
		t.Errorf("used %d with the removed file open", used)
	}
	after := f.Kill()
	if used := after.Used(); used != blockSize {
		t.Errorf("used %d after it", used)
	}
	for _, err := range []error{lock.Close(), h.Close(), gone.Sync(), f.Mkdir("a"), f.Close()} {
		if !errors.Is(err, ErrOff) {
			t.Errorf("the dead does something: %v", err)
		}
	}
	if _, err := gone.Read(make([]byte, 1)); !errors.Is(err, ErrOff) {
		t.Error(err)
	}
	lock, err = after.Lock("lock", 0)
	must(t, err, lock.Close())
	if got := letters(get(after, "x")); got != "a" {
		t.Errorf("%q", got)
	}
	expect(t, "the old page cache is lost with the power", outcomes(after, func(f *FS) string { return fmt.Sprint(get(f, "x") == absent) }), "true", "false")
}

// FAULTS rows 30, 31: the disk is full of bytes, or of files.
func TestFull(t *testing.T) {
	t.Parallel()
	f := New(Options{Size: 5 * blockSize, Inodes: 3})
	must(t, f.Mkdir("a"))
	h := create(t, f, "x", blocks("a"))
	n, err := io.WriteString(h, strings.Repeat("b", 4*blockSize))
	if n != 3*blockSize || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("wrote %d, %v", n, err)
	}
	if _, free, err := f.Free(); free != 0 || err != nil {
		t.Errorf("%d free, %v", free, err)
	}
	is(t, "mkdir", f.Mkdir("b"), syscall.ENOSPC)
	must(t, h.Truncate(1))
	_, err = h.Seek(0, io.SeekStart)
	must(t, err)
	_, err = io.WriteString(h, "over what is there")
	must(t, err, h.Sync(), f.SyncDir("."))
	put(t, f, "y", "")
	_, err = f.OpenFile("z", os.O_WRONLY|os.O_CREATE, 0o600)
	is(t, "out of inodes", err, syscall.ENOSPC)
	must(t, f.Remove("y"), h.Close())
	put(t, f, "z", blocks("c"))
	after := f.Crash(seeded(3))
	if got := get(after, "x"); got != "over what is there" {
		t.Errorf("%q", got)
	}
	if size, free, err := after.Free(); size-free != after.Used() || err != nil {
		t.Errorf("%d of %d free, %d used, %v", free, size, after.Used(), err)
	}
}

// One power cut of the same seed has one outcome.
func TestCrashCanBeRepeated(t *testing.T) {
	t.Parallel()
	f := New(Options{})
	for i := range 20 {
		put(t, f, fmt.Sprint(i), blocks("abc"))
	}
	for seed := range uint64(20) {
		a, b := f.Crash(seeded(seed)), f.Crash(seeded(seed))
		for i := range 20 {
			if name := fmt.Sprint(i); get(a, name) != get(b, name) {
				t.Errorf("seed %d: %q and %q", seed, letters(get(a, name)), letters(get(b, name)))
			}
		}
	}
}
