package cache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"cistern/cache/blob"
)

// TestNotes: they outlive the index, can be read where nothing can be written, and fail
// alone where there is no disk.
func TestNotes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	if err := c.WriteNote("n", []byte("noted")); err != nil {
		t.Fatal(err)
	}
	c.close()
	if err := os.Remove(filepath.Join(dir, indexName)); err != nil {
		t.Fatal(err)
	}
	c = open(t, Options{Dir: dir})
	if got, err := c.Note("n"); err != nil || string(got) != "noted" {
		t.Errorf("without the index: %q, %v", got, err)
	}
	c.close()

	c = open(t, faultyDir(t, dir, readOnly))
	if got, err := c.Note("n"); err != nil || string(got) != "noted" {
		t.Errorf("read-only: %q, %v", got, err)
	}
	if c.WriteNote("n", nil) == nil {
		t.Error("written to what is read-only")
	}
	c.close()

	c = open(t, Options{Dir: filepath.Join(dir, "n", "below a file")})
	if _, err := c.Note("n"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if c.WriteNote("n", nil) == nil {
		t.Error("written without a disk")
	}
}

// TestNoteWithoutRoom: the cap holds for notes, too.
func TestNoteWithoutRoom(t *testing.T) {
	t.Parallel()
	c := open(t, Options{Limit: 16 << 20})
	if err := c.WriteNote("n", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteNote("n", make([]byte, 16<<20)); !errors.Is(err, blob.ErrNoSpace) {
		t.Error(err)
	}
	if got, err := c.Note("n"); err != nil || string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
}
