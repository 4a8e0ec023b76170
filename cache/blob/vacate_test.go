package blob

import (
	"os"
	"path/filepath"
	"testing"

	"cistern/internal/durable"
)

// late opens a store as on a file system whose space is late.
func late(t *testing.T) (*Store, string) {
	dir := t.TempDir()
	s := openStore(t, Options{Dir: dir, Limit: 64 * mib})
	s.late = true
	return s, dir
}

// TestVacate: where space is given back by emptying the removed file, a reader
// still gets all of it, and a file that somebody has linked elsewhere stays whole.
func TestVacate(t *testing.T) {
	t.Parallel()
	s, dir := late(t)
	data := content(1, 3*mib)
	for i, remove := range []func(allocated int64){
		func(allocated int64) {
			if err := s.Remove(digest(1), allocated); err != nil {
				t.Fatal(err)
			}
		},
		func(int64) { // by what takes its place
			put(t, s, digest(1), data)
		},
	} {
		allocated := put(t, s, digest(1), data)
		if want := durable.RoundUp(int64(len(data))) + inodeShare; allocated != want {
			t.Errorf("%d bytes allocated, want %d", allocated, want)
		}
		elsewhere := filepath.Join(dir, "elsewhere")
		if err := os.Link(filepath.Join(dir, place(fillsDir, digest(1))), elsewhere); err != nil {
			t.Fatal(err)
		}
		f, err := s.OpenFile(digest(1))
		if err != nil {
			t.Fatal(err)
		}
		remove(allocated)
		got := make([]byte, len(data))
		if n, err := f.ReadAt(got, 0); n != len(data) || string(got) != string(data) {
			t.Errorf("%d: a reader got %d bytes, %v", i, n, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if whole, err := os.ReadFile(elsewhere); err != nil || string(whole) != string(data) {
			t.Errorf("%d: the link has %d bytes, %v", i, len(whole), err)
		}
		if err := os.Remove(elsewhere); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(digest(1), 0); err != nil {
		t.Fatal(err)
	}
}

// TestVacateEmpties: nobody reads it and it has no other name: its space is back
// when Remove or Abort returns, although a descriptor is open still.
func TestVacateEmpties(t *testing.T) {
	t.Parallel()
	s, dir := late(t)
	held := func(name string) *os.File {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	empty := func(f *os.File) {
		t.Helper()
		if fi, err := f.Stat(); err != nil || fi.Size() != 0 {
			t.Errorf("%d bytes are left, %v", fi.Size(), err)
		}
	}
	allocated := put(t, s, digest(1), content(1, mib))
	f := held(place(fillsDir, digest(1)))
	if err := s.Remove(digest(1), allocated); err != nil {
		t.Fatal(err)
	}
	empty(f)

	in, err := s.Create(digest(2), reserve(t, s, 2*mib))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(content(2, mib)); err != nil {
		t.Fatal(err)
	}
	f = held(place(fillsDir, digest(2)))
	if err := in.Abort(); err != nil {
		t.Fatal(err)
	}
	empty(f)

	// The last reader gives it back.
	put(t, s, digest(3), content(3, mib))
	f = held(place(fillsDir, digest(3)))
	r, err := s.OpenFile(digest(3))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(digest(3), mib+inodeShare); err != nil {
		t.Fatal(err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != mib {
		t.Errorf("%d bytes under a reader, %v", fi.Size(), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	empty(f)
}

// TestAllocatedAhead: what was allocated for a fill that stays shorter is given
// back when it ends.
func TestAllocatedAhead(t *testing.T) {
	t.Parallel()
	s, _ := late(t)
	for _, end := range []func(*Ingest) error{
		func(in *Ingest) error { _, err := in.Commit(); return err },
		(*Ingest).Keep,
	} {
		in, err := s.Create(digest(1), reserve(t, s, 8*mib))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(content(1, 100)); err != nil {
			t.Fatal(err)
		}
		before := s.Usage().Used
		if err := end(in); err != nil {
			t.Fatal(err)
		}
		if u := s.Usage(); u.Used-before != 4096+inodeShare || u.Reserved != 0 {
			t.Errorf("%d bytes for one of 100, %d reserved", u.Used-before, u.Reserved)
		}
		if err := s.Remove(digest(1), 4096+inodeShare); err != nil {
			t.Fatal(err)
		}
	}
}
