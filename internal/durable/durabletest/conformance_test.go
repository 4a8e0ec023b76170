package durabletest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"cistern/internal/durable"
)

// Each of these runs on real files and on those in memory: the twin is no good
// if it is kinder or unkinder than what it stands for.
var conformance = map[string]func(*testing.T, planter){
	"create": testCreate, "errors of open": testOpenErrors, "names": testNames, "read while writing": testReadWhileWriting,
	"open files stay": testOpenFilesStay, "rename": testRename, "remove": testRemove, "folders": testFolders,
	"sizes": testSizes, "lock": testLock, "closed": testClosed, "wrong way": testWrongWay, "sequences": testSequences,
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, run := range conformance {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("real", func(t *testing.T) { run(t, newReal(t)) })
			t.Run("memory", func(t *testing.T) { run(t, New(Options{})) })
			t.Run("faulty", func(t *testing.T) {
				memory := New(Options{})
				run(t, struct {
					*Faulty
					plants
				}{&Faulty{FS: memory}, memory})
			})
		})
	}
}

type plants interface {
	Plant(name string, mode fs.FileMode) error
}

// is expects an error, nil included.
func is(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || want == nil && got != nil {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func testCreate(t *testing.T, f planter) {
	for name, mode := range map[string]fs.FileMode{"private": 0o600, "public": 0o600 | fs.ModeSticky} {
		h, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
		must(t, err)
		for range 2 {
			fi, err := h.Stat()
			if err != nil || fi.Mode() != mode || fi.Size() != 0 || durable.Allocated(fi) != 0 || fi.IsDir() {
				t.Errorf("%s: %v, %v", name, fi, err)
			}
			if fi, err = f.Lstat(name); err != nil || fi.Mode() != mode || fi.Name() != name {
				t.Errorf("%s: %v, %v", name, fi, err)
			}
		}
		must(t, h.Close())
		_, err = f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
		is(t, "exclusively again", err, fs.ErrExist)
		h, err = f.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
		must(t, err, h.Close())
		if fi, err := f.Lstat(name); err != nil || fi.Mode() != mode || time.Since(fi.ModTime()) > time.Minute || time.Since(durable.Changed(fi)) > time.Minute {
			t.Errorf("opened to create once more: %v, %v", fi, err)
		}
	}
	put(t, f, "x", "12345")
	h, err := f.OpenFile("x", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	must(t, err)
	if got := get(f, "x"); got != "" {
		t.Errorf("truncated: %q", got)
	}
	must(t, h.Close())
	h, err = f.OpenFile("x", os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	for range 2 {
		if _, err := io.WriteString(h, "ab"); err != nil {
			t.Error(err)
		}
	}
	must(t, h.Close())
	if got := get(f, "x"); got != "abab" {
		t.Errorf("appended: %q", got)
	}
}

func testOpenErrors(t *testing.T, f planter) {
	must(t, f.Mkdir("a"), f.Plant("link", fs.ModeSymlink), f.Plant("fifo", fs.ModeNamedPipe))
	put(t, f, "a/file", "x")
	const write, add = os.O_WRONLY, os.O_RDWR | os.O_CREATE
	for _, c := range []struct {
		name string
		flag int
		want error
	}{
		{"none", 0, fs.ErrNotExist}, {"none", write, fs.ErrNotExist}, {"none/none", 0, fs.ErrNotExist}, {"none/none", add, fs.ErrNotExist},
		{"a/file/x", 0, syscall.ENOTDIR}, {"a/file/x", add, syscall.ENOTDIR},
		{"link", 0, syscall.ELOOP}, {"link/x", 0, syscall.ELOOP}, {"link", add, syscall.ELOOP}, {"link", add | os.O_EXCL, fs.ErrExist},
		{"a", 0, nil}, {"a", write, syscall.EISDIR}, {"a", add, syscall.EISDIR}, {"a", add | os.O_EXCL, fs.ErrExist},
		{"fifo", 0, nil}, {"fifo", write, syscall.ENXIO}, {"fifo", os.O_RDWR, nil}, {"fifo", add | os.O_EXCL, fs.ErrExist},
		{"../x", 0, syscall.EINVAL}, {"/etc/passwd", 0, syscall.EINVAL}, {"", 0, syscall.EINVAL},
	} {
		h, err := f.OpenFile(c.name, c.flag, 0o600)
		is(t, c.name, err, c.want)
		if err == nil {
			fi, err := h.Stat()
			if err != nil || fi.Mode().IsRegular() {
				t.Errorf("%s: %v, %v", c.name, fi, err)
			}
			must(t, h.Close())
		} else if h != nil {
			t.Errorf("%s: an error and a file", c.name)
		}
	}
	h, err := f.OpenFile("a", os.O_RDONLY, 0)
	must(t, err)
	_, err = h.Read(make([]byte, 1))
	is(t, "read of a folder", err, syscall.EISDIR)
	must(t, h.Sync(), h.Close())
}

func testNames(t *testing.T, f planter) {
	must(t, f.Mkdir("a"))
	put(t, f, "a/b", "x")
	if got := get(f, "a/../a/./b"); got != "x" {
		t.Errorf("%q", got)
	}
	fi, err := f.Lstat(".")
	if err != nil || !fi.IsDir() || fi.Mode().Perm()&0o700 != 0o700 {
		t.Errorf("%v, %v", fi, err)
	}
	must(t, f.SyncDir("."), f.SyncDir("a"), f.SyncAll())
	_, err = f.Lstat("none")
	is(t, "lstat", err, fs.ErrNotExist)
	_, err = f.Lstat("a/b/c")
	is(t, "lstat below a file", err, syscall.ENOTDIR)
	is(t, "syncdir", f.SyncDir("none"), fs.ErrNotExist)
	_, err = f.ReadDir("none")
	is(t, "readdir", err, fs.ErrNotExist)
	_, err = f.ReadDir("a/b")
	is(t, "readdir of a file", err, syscall.ENOTDIR)
	must(t, f.Plant("link", fs.ModeSymlink), f.Plant("fifo", fs.ModeNamedPipe))
	for name, kind := range map[string]fs.FileMode{"link": fs.ModeSymlink, "fifo": fs.ModeNamedPipe, "a": fs.ModeDir, "a/b": 0} {
		if fi, err := f.Lstat(name); err != nil || fi.Mode().Type() != kind {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
}

func testReadWhileWriting(t *testing.T, f planter) {
	w := create(t, f, "x", "")
	r, err := f.OpenFile("x", os.O_RDONLY, 0)
	must(t, err)
	_, err = r.Read(make([]byte, 1))
	is(t, "nothing there yet", err, io.EOF)
	buf := make([]byte, 20000)
	for i, part := range []string{"abc", blocks("de"), "f"} {
		n, err := io.WriteString(w, part)
		if n != len(part) || err != nil {
			t.Fatal(n, err)
		}
		if n, err = r.Read(buf); string(buf[:n]) != part || err != nil {
			t.Errorf("part %d: %d bytes, %v", i, n, err)
		}
	}
	n, err := r.ReadAt(buf, 8190)
	if want := blocks("e")[:5] + "f"; string(buf[:n]) != want || err != io.EOF {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if n, err = r.ReadAt(buf[:3], 1); string(buf[:n]) != "bcd" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if n, err = r.ReadAt(buf[:1], 1<<20); n != 0 || err != io.EOF {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	if _, err = r.ReadAt(buf, -1); err == nil {
		t.Error("before the start")
	}
	for _, c := range []struct {
		off, want int64
		whence    int
	}{{2, 2, io.SeekStart}, {3, 5, io.SeekCurrent}, {-1, 8195, io.SeekEnd}} {
		if off, err := r.Seek(c.off, c.whence); off != c.want || err != nil {
			t.Errorf("%v: %d, %v", c, off, err)
		}
	}
	if n, err = r.Read(buf); string(buf[:n]) != "f" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	_, err = r.Seek(-1, io.SeekStart)
	is(t, "seek", err, syscall.EINVAL)
	must(t, w.Close(), r.Close())
}

func testOpenFilesStay(t *testing.T, f planter) {
	h := create(t, f, "x", "old")
	moved := create(t, f, "y", "moved")
	must(t, f.Remove("x"))
	put(t, f, "x", "new")
	must(t, f.Rename("y", "z"))
	buf := make([]byte, 10)
	for r, want := range map[durable.File]string{h: "old", moved: "moved"} {
		if n, err := r.ReadAt(buf, 0); string(buf[:n]) != want || err != io.EOF {
			t.Errorf("%q, %v; want %q", buf[:n], err, want)
		}
		if fi, err := r.Stat(); err != nil || fi.Size() != int64(len(want)) {
			t.Errorf("%v, %v", fi, err)
		}
		if _, err := io.WriteString(r, "!"); err != nil {
			t.Error(err)
		}
		must(t, r.Sync(), r.Close())
	}
	if x, z := get(f, "x"), get(f, "z"); x != "new" || z != "moved!" {
		t.Errorf("%q, %q", x, z)
	}
}

func testRename(t *testing.T, f planter) {
	must(t, f.Mkdir("a"), f.Mkdir("b"), f.Mkdir("b/full"), f.Mkdir("empty"))
	put(t, f, "a/x", "x")
	put(t, f, "b/full/y", "y")
	must(t, f.Rename("a/x", "b/x"))
	if a, b := get(f, "a/x"), get(f, "b/x"); a != "(no such file or directory)" || b != "x" {
		t.Errorf("%q, %q", a, b)
	}
	h, err := f.OpenFile("b/full/y", os.O_RDONLY, 0)
	must(t, err, f.Rename("b/x", "b/full/y"))
	if got := get(f, "b/full/y"); got != "x" {
		t.Errorf("over another: %q", got)
	}
	if got, err := io.ReadAll(h); string(got) != "y" || err != nil {
		t.Errorf("who reads the other has %q, %v", got, err)
	}
	must(t, h.Close(), f.Rename("b/full/y", "b/full/y"))
	is(t, "of nothing", f.Rename("none", "a/x"), fs.ErrNotExist)
	is(t, "into nothing", f.Rename("b/full/y", "none/x"), fs.ErrNotExist)
	is(t, "below a file", f.Rename("b/full/y", "b/full/y/x"), syscall.ENOTDIR)
	if f.Rename("b/full/y", "empty") == nil || f.Rename("empty", "b/full") == nil { // nobody asks why
		t.Error("over a folder")
	}
	is(t, "of a folder over a file", f.Rename("empty", "b/full/y"), syscall.ENOTDIR)
	is(t, "into itself", f.Rename("b", "b/full/z"), syscall.EINVAL)
	must(t, f.Rename("b", "a/b"), f.Plant("link", fs.ModeSymlink), f.Rename("link", "a/link"))
	if got := get(f, "a/b/full/y"); got != "x" {
		t.Errorf("a folder with all below it: %q", got)
	}
	must(t, f.Rename("a/b/full/y", "a/link"))
	if got := get(f, "a/link"); got != "x" {
		t.Errorf("over a link: %q", got)
	}
}

func testRemove(t *testing.T, f planter) {
	must(t, f.Mkdir("a"), f.Mkdir("a/b"), f.Plant("a/link", fs.ModeSymlink), f.Plant("a/fifo", fs.ModeNamedPipe))
	put(t, f, "a/x", "x")
	is(t, "of what is not empty", f.Remove("a"), syscall.ENOTEMPTY)
	is(t, "of nothing", f.Remove("none"), fs.ErrNotExist)
	is(t, "in nothing", f.Remove("none/x"), fs.ErrNotExist)
	is(t, "below a file", f.Remove("a/x/y"), syscall.ENOTDIR)
	for _, name := range []string{"a/b", "a/x", "a/link", "a/fifo", "a"} {
		must(t, f.Remove(name))
		_, err := f.Lstat(name)
		is(t, name, err, fs.ErrNotExist)
	}
}

func testFolders(t *testing.T, f planter) {
	must(t, f.Mkdir("a"))
	put(t, f, "x", "x")
	is(t, "again", f.Mkdir("a"), fs.ErrExist)
	is(t, "over a file", f.Mkdir("x"), fs.ErrExist)
	is(t, "in nothing", f.Mkdir("none/a"), fs.ErrNotExist)
	is(t, "in a file", f.Mkdir("x/a"), syscall.ENOTDIR)
	if fi, err := f.Lstat("a"); err != nil || fi.Mode() != fs.ModeDir|0o700 || !fi.IsDir() {
		t.Errorf("%v, %v", fi, err)
	}
	put(t, f, "a/1", "1")
	must(t, f.Mkdir("a/2"), f.Plant("a/3", fs.ModeSymlink))
	want := map[string]fs.FileMode{"1": 0, "2": fs.ModeDir, "3": fs.ModeSymlink}
	entries, err := f.ReadDir("a")
	must(t, err)
	for _, e := range entries {
		kind, ok := want[e.Name()]
		fi, err := e.Info()
		if !ok || e.Type() != kind || e.IsDir() != kind.IsDir() || err != nil || fi.Name() != e.Name() || fi.Mode().Type() != kind {
			t.Errorf("%v, %v, %v", e, fi, err)
		}
		delete(want, e.Name())
	}
	if len(want) != 0 {
		t.Errorf("not listed: %v", want)
	}
	must(t, f.Remove("a/1"))
	for _, e := range entries {
		if _, err := e.Info(); err != nil {
			t.Errorf("%s: an entry is what it was when it was read: %v", e.Name(), err)
		}
	}
	if entries, err := f.ReadDir("a/2"); len(entries) != 0 || err != nil {
		t.Errorf("%v, %v", entries, err)
	}
}

func testSizes(t *testing.T, f planter) {
	h := create(t, f, "x", strings.Repeat("x", 5000))
	expect := func(what string, size, allocated int64) {
		t.Helper()
		fi, err := h.Stat()
		must(t, err)
		st, ok := fi.Sys().(*syscall.Stat_t)
		if fi.Size() != size || !ok || st.Blocks*512 != allocated {
			t.Errorf("%s: %d bytes, %d allocated; want %d, %d", what, fi.Size(), st.Blocks*512, size, allocated)
		}
	}
	must(t, h.Sync())
	expect("written", 5000, 8192)
	must(t, h.Truncate(100), h.Sync())
	expect("cut", 100, 4096)
	must(t, h.Truncate(20_000), h.Sync())
	expect("longer", 20_000, 4096)
	if got := get(f, "x"); got != strings.Repeat("x", 100)+strings.Repeat("\x00", 19_900) {
		t.Errorf("what was cut off is back: %q", strings.Trim(got, "\x00"))
	}
	_, err := h.Seek(12_287, io.SeekStart)
	must(t, err)
	_, err = io.WriteString(h, "ab")
	must(t, err, h.Sync())
	expect("with a hole", 20_000, 12_288)
	is(t, "below zero", h.Truncate(-1), syscall.EINVAL)
	must(t, h.Close())
	size, free, err := f.Free()
	if err != nil || free <= 0 || size < free {
		t.Errorf("%d of %d, %v", free, size, err)
	}
}

func testLock(t *testing.T, f planter) {
	first, err := f.Lock("lock", 0)
	must(t, err)
	_, err = f.Lock("lock", 0)
	is(t, "second", err, durable.ErrLocked)
	if err == nil || !strings.Contains(err.Error(), "(process ") {
		t.Errorf("who holds it? %v", err)
	}
	other, err := f.Lock("other", 0)
	must(t, err, other.Close())
	got := make(chan error)
	go func() {
		second, err := f.Lock("lock", time.Minute)
		if err == nil {
			err = second.Close()
		}
		got <- err
	}()
	must(t, first.Close(), <-got)
}

func testClosed(t *testing.T, f planter) {
	h := create(t, f, "x", "x")
	must(t, f.Close())
	is(t, "close again", ignoreNil(f.Close()), fs.ErrClosed)
	_, oerr := f.OpenFile("x", os.O_RDONLY, 0)
	_, lerr := f.Lstat("x")
	_, rerr := f.ReadDir(".")
	_, kerr := f.Lock("lock", 0)
	_, _, ferr := f.Free()
	for i, err := range []error{oerr, lerr, rerr, kerr, ferr, f.Mkdir("a"), f.Rename("x", "y"), f.Remove("x"), f.SyncDir("."), f.SyncAll()} {
		if err == nil { // package os has no one error for it
			t.Errorf("after close: operation %d works", i)
		}
	}
	if _, err := io.WriteString(h, "y"); err != nil { // open files stay open
		t.Error(err)
	}
	must(t, h.Sync(), h.Close())
	_, err := h.Stat()
	is(t, "stat", err, fs.ErrClosed)
	_, err = h.Read(nil)
	is(t, "read", err, fs.ErrClosed)
	_, err = h.Write(nil)
	is(t, "write", err, fs.ErrClosed)
	for _, err := range []error{h.Sync(), h.Truncate(0), h.Close()} {
		is(t, "of a closed file", err, fs.ErrClosed)
	}
}

// ignoreNil: that a second Close of a durable.Dir says nothing is fine too.
func ignoreNil(err error) error {
	if err == nil {
		return fs.ErrClosed
	}
	return err
}

func testWrongWay(t *testing.T, f planter) {
	put(t, f, "x", "abc")
	r, err := f.OpenFile("x", os.O_RDONLY, 0)
	must(t, err)
	_, err = r.Write([]byte("x"))
	is(t, "write", err, syscall.EBADF)
	is(t, "truncate", r.Truncate(0), syscall.EINVAL)
	must(t, r.Sync(), r.Close())
	w, err := f.OpenFile("x", os.O_WRONLY, 0)
	must(t, err)
	_, err = w.Read(make([]byte, 1))
	is(t, "read", err, syscall.EBADF)
	_, err = w.ReadAt(make([]byte, 1), 0)
	is(t, "readat", err, syscall.EBADF)
	must(t, w.Sync(), w.Close())
	if got := get(f, "x"); got != "abc" {
		t.Errorf("%q", got)
	}
}

// The sequences of package durable end as they should on either.
func testSequences(t *testing.T, f planter) {
	must(t, durable.WriteFile(f, "v", []byte("one")), durable.WriteFile(f, "v", []byte("two")), durable.SyncFile(f, "v"))
	if data, err := durable.ReadFile(f, "v"); string(data) != "two" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	must(t, durable.MkdirDurable(f, "a/b/c"), durable.MkdirDurable(f, "a/b/c"), durable.RemoveDurable(f, "v"), durable.RemoveDurable(f, "v"))
	if got := get(f, "v"); got != "(no such file or directory)" {
		t.Errorf("%q", got)
	}
}
