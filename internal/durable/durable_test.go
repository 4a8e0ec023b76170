package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cistern/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func openDir(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// traced notes operations and fails the chosen one, undone or done.
type traced struct {
	FS
	trace []string
	fail  int // from 1; 0: none
	done  bool
}

var errInjected = errors.New("injected")

func (f *traced) do(op string, run func() error) error {
	f.trace = append(f.trace, op)
	if len(f.trace) == f.fail && !f.done {
		return errInjected
	}
	err := run()
	if len(f.trace) == f.fail {
		err = errors.Join(err, errInjected)
	}
	return err
}

func (f *traced) OpenFile(name string, flag int, perm fs.FileMode) (file File, err error) {
	err = f.do("open "+name, func() error {
		file, err = f.FS.OpenFile(name, flag, perm)
		return err
	})
	if err != nil && file != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &tracedFile{file, f}, err
}
func (f *traced) Mkdir(n string) error {
	return f.do("mkdir "+n, func() error { return f.FS.Mkdir(n) })
}
func (f *traced) Rename(from, to string) error {
	return f.do("rename "+from+" "+to, func() error { return f.FS.Rename(from, to) })
}
func (f *traced) Remove(n string) error {
	return f.do("unlink "+n, func() error { return f.FS.Remove(n) })
}
func (f *traced) SyncDir(n string) error {
	return f.do("syncdir "+n, func() error { return f.FS.SyncDir(n) })
}

type tracedFile struct {
	File
	fs *traced
}

func (f *tracedFile) Write(p []byte) (n int, err error) {
	err = f.fs.do("write", func() error {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}
func (f *tracedFile) Sync() error  { return f.fs.do("fsync", f.File.Sync) }
func (f *tracedFile) Close() error { return f.fs.do("close", f.File.Close) }

func TestSequences(t *testing.T) {
	t.Parallel()
	f := &traced{FS: openDir(t, t.TempDir())}
	for _, c := range []struct {
		name string
		run  func() error
		want []string
	}{
		{"write", func() error { return WriteFile(f, "v", []byte("1")) }, []string{"open v.tmp", "write", "fsync", "close", "rename v.tmp v", "syncdir ."}},
		{"sync", func() error { return SyncFile(f, "v") }, []string{"open v", "fsync", "close"}},
		{"mkdir", func() error { return MkdirDurable(f, "a/b") }, []string{"mkdir a/b", "mkdir a", "mkdir a/b", "syncdir .", "syncdir a"}},
		{"mkdir of what is there", func() error { return MkdirDurable(f, "a/b") }, []string{"mkdir a/b"}},
		{"mkdir below", func() error { return MkdirDurable(f, "a/b/c") }, []string{"mkdir a/b/c", "syncdir a/b"}},
		{"read", func() error { _, err := ReadFile(f, "v"); return err }, []string{"open v", "close"}},
		{"remove", func() error { return RemoveDurable(f, "v") }, []string{"unlink v", "syncdir ."}},
		{"remove of nothing", func() error { return RemoveDurable(f, "v") }, []string{"unlink v", "syncdir ."}},
	} {
		f.trace = nil
		if err := c.run(); err != nil || !slices.Equal(f.trace, c.want) {
			t.Errorf("%s: %v, %v, want %v", c.name, f.trace, err, c.want)
		}
	}
}

// Whatever fails, the name holds the old content or the new, and no error means
// the new.
func TestWriteFileFailsAtEachStep(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} {
		for n := 1; ; n++ {
			dir := t.TempDir()
			f := &traced{FS: openDir(t, dir)}
			if err := WriteFile(f, "v", []byte("old")); err != nil {
				t.Fatal(err)
			}
			f.trace, f.fail, f.done = nil, n, done
			err := WriteFile(f, "v", []byte("new"))
			got, rerr := os.ReadFile(filepath.Join(dir, "v"))
			if s := string(got); rerr != nil || s != "old" && s != "new" || err == nil && s != "new" {
				t.Errorf("failure %d (done %v): %v, then %q, %v", n, done, err, s, rerr)
			}
			if err == nil {
				break
			}
			if _, err := os.Lstat(filepath.Join(dir, "v.tmp")); err == nil {
				t.Errorf("failure %d (done %v) leaves the temporary file", n, done)
			}
		}
	}
}

func TestReadFileIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, maxRead+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(d, "big"); err == nil {
		t.Error("no error")
	}
}

func TestOpenFileStaysInside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir)
	err := errors.Join(
		d.Mkdir("a"),
		WriteFile(d, "a/file", []byte("x")),
		os.Symlink("a", filepath.Join(dir, "inner")),
		os.Symlink("/etc", filepath.Join(dir, "outer")),
		os.Symlink("a/file", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	walking := func(name string, flag int, perm fs.FileMode) (File, error) {
		if !filepath.IsLocal(name) {
			return nil, syscall.EINVAL
		}
		return d.openWalking(name, flag, perm)
	}
	for way, open := range map[string]func(string, int, fs.FileMode) (File, error){"openat2": d.OpenFile, "walking": walking} {
		for name, want := range map[string]error{
			"a/file": nil, "fifo": nil, "a": nil,
			"inner/file": syscall.ELOOP, "outer/passwd": syscall.ELOOP, "link": syscall.ELOOP,
			"../x": syscall.EINVAL, "/etc/passwd": syscall.EINVAL, "": syscall.EINVAL,
			"none": fs.ErrNotExist, "a/none": fs.ErrNotExist, "none/none": fs.ErrNotExist, "a/file/x": syscall.ENOTDIR,
		} {
			f, err := open(name, os.O_RDONLY, 0)
			if !errors.Is(err, want) {
				t.Errorf("%s: %q: %v, want %v", way, name, err, want)
			}
			if err == nil {
				if _, ok := f.(*os.File); !ok {
					t.Errorf("%s: %q is a %T: no sendfile", way, name, f)
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			} else if f != nil {
				t.Errorf("%s: %q: an error and a file", way, name)
			}
		}
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir)
	first, err := d.Lock("lock", 0)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := openDir(t, dir).Lock("lock", 50*time.Millisecond); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "(process ") {
		t.Errorf("second: %v", err)
	}
	if time.Since(start) < 50*time.Millisecond {
		t.Error("it did not wait")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := d.Lock("lock", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// A directory that was deleted stays away, even if its name comes back.
func TestDirIsNotItsName(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cache")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, dir)
	if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(d, "x", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write: %v", err)
	}
	if err := MkdirDurable(d, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mkdir: %v", err)
	}
}

func TestAllocatedAndFree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir)
	f, err := d.OpenFile("f", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, strings.Repeat("x", 5000)); err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil || Allocated(fi) != 8192 || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %d, %v", err, Allocated(fi), fi.Mode())
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	entries, err := d.ReadDir(".")
	if err != nil || len(entries) != 1 || entries[0].Name() != "f" {
		t.Errorf("%v, %v", entries, err)
	}
	size, free, err := d.Free()
	if err != nil || free <= 0 || size < free {
		t.Errorf("size %d, free %d, %v", size, free, err)
	}
	for n, want := range map[int64]int64{0: 0, 1: 4096, 4096: 4096, 4097: 8192} {
		if got := RoundUp(n); got != want {
			t.Errorf("RoundUp(%d) = %d", n, got)
		}
	}
}

// The operations that name two folders, or that os.Root would walk to, stay
// inside as opening does, with openat2 and without.
func TestNamesStayInside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir)
	outside := t.TempDir()
	err := errors.Join(
		d.Mkdir("a"), d.Mkdir("b"), d.Mkdir("b/empty"),
		WriteFile(d, "a/file", []byte("x")),
		WriteFile(d, "a/other", []byte("y")),
		os.WriteFile(filepath.Join(outside, "file"), nil, 0o600),
		os.Symlink(outside, filepath.Join(dir, "outer")),
		os.Symlink("a/file", filepath.Join(dir, "link")),
	)
	if err != nil {
		t.Fatal(err)
	}
	for name, op := range map[string]func(string) error{
		"rename from": func(n string) error { return d.Rename(n, "b/x") },
		"rename to":   func(n string) error { return d.Rename("a/file", n) },
		"remove":      d.Remove,
		"lstat":       func(n string) error { _, err := d.Lstat(n); return err },
		"syncdir":     d.SyncDir,
	} {
		for _, n := range []string{"outer/file", "../x/file", "/etc/passwd", "", "a/../../x"} {
			if err := op(n); err == nil {
				t.Errorf("%s of %q: no error", name, n)
			}
		}
		if name != "rename to" {
			if err := op("a/none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s of nothing: %v", name, err)
			}
		}
	}
	if _, err := os.Lstat(filepath.Join(outside, "file")); err != nil {
		t.Error(err)
	}
	if fi, err := d.Lstat("link"); err != nil || fi.Mode().Type() != fs.ModeSymlink {
		t.Errorf("a link itself: %v, %v", fi, err)
	}
	if fi, err := d.Lstat("."); err != nil || !fi.IsDir() {
		t.Errorf("the directory itself: %v, %v", fi, err)
	}
	err = errors.Join(d.Rename("a/file", "b/moved"), d.Rename("b/moved", "a/other"), d.SyncDir("."), d.SyncDir("a"), d.Remove("b/empty"), d.Remove("link"))
	if err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "a", "other")); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	if err := d.Remove("a"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("a folder with something in it: %v", err)
	}
}
