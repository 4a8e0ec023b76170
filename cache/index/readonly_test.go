package index

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

func openReadOnly(t *testing.T, path string) *Index {
	t.Helper()
	x, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return x
}

// FAULTS row 32: everything can be read, by several at once, nothing is written,
// and nobody writes beside them.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	path := filled(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		x := openReadOnly(t, path)
		for i := range filledBlobs {
			want := filledTag(i, 1-i%2)
			tag, _, err1 := x.Tag(want.Reference)
			granted, err2 := x.Granted(filledRepo(i), digest(i))
			if r, ok := get(t, x, digest(i)); !ok || r != record(i, int64(i)*1000) || tag != want || !granted {
				t.Fatalf("%+v, %v, %+v, %v, granted: %v, %v", r, ok, tag, err1, granted, err2)
			}
		}
		if n, _ := x.Totals().Sum(); n != filledBlobs {
			t.Errorf("%d records counted", n)
		}
		if vs, err := x.Victims(time.Time{}, 1, [Classes]int64{}, nil, nil); err != nil || len(vs) == 0 {
			t.Errorf("victims %v, %v", vs, err)
		}
		if err := x.Apply(Batch{Put: []Record{record(1, 1)}}); !errors.Is(err, syscall.EROFS) || x.Broken() != nil {
			t.Errorf("apply: %v, broken: %v", err, x.Broken())
		}
	}
	if x, err := Open(path, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("a writer: %v, %v", x, err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was written: %v", err)
	}
}

func TestReadOnlyMakesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing, empty, none := filepath.Join(dir, "missing"), filepath.Join(dir, "empty"), filepath.Join(dir, "none")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(none, make([]byte, 1<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{missing: fs.ErrNotExist, empty: fs.ErrNotExist, none: ErrBroken} {
		if x, err := Open(path, Options{ReadOnly: true}); !errors.Is(err, want) {
			t.Errorf("%s: %v, %v", path, x, err)
		}
	}
	if fi, err := os.Stat(empty); err != nil || fi.Size() != 0 {
		t.Errorf("%v, %v", fi, err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestReadOnlyCountsLostTotals(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	apply(t, x, Batch{Put: []Record{record(1, 4096), record(2, 2<<20)}})
	want := x.Totals()
	err := x.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyTotals, []byte("x")) })
	if err := errors.Join(err, x.Close()); err != nil {
		t.Fatal(err)
	}
	if got := openReadOnly(t, x.Path()).Totals(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
