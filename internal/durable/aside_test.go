package durable

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// resident is how many bytes of a file are in the page cache; false if the kernel does not
// say.
func resident(t *testing.T, f *os.File) (int64, bool) {
	t.Helper()
	var there unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &there, 0)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
		return 0, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return int64(there.Cache) * int64(os.Getpagesize()), true
}

// TestReadAside: what is read so is not in the page cache afterwards, unless it was
// before.
func TestReadAside(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	Uncache(f)
	left, known := resident(t, f) // on a file system in memory, all of it
	read := func() {
		t.Helper()
		p := make([]byte, 1<<20)
		for off := int64(0); off < size; off += int64(len(p)) {
			if n, err := ReadAside(f, p, off); err != nil || n != len(p) || !bytes.Equal(p, data[:len(p)]) {
				t.Fatalf("at %d: %d, %v", off, n, err)
			}
		}
	}
	read()
	if n, _ := resident(t, f); known && n != left {
		t.Errorf("%d bytes that nobody has asked for are in the page cache", n)
	}
	const hot = 3 << 20
	if _, err := f.ReadAt(make([]byte, hot), 0); err != nil {
		t.Fatal(err)
	}
	before, _ := resident(t, f)
	read()
	if n, _ := resident(t, f); known && (n < hot || n > before) {
		t.Errorf("%d bytes are in the page cache, and %d were", n, before)
	}
}
