package blob

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"cistern/internal/durable"
)

// damagedStore has blobs of a MiB, some of which are set aside.
func damagedStore(t *testing.T, o Options, blobs, damaged int) (*Store, int64) {
	s := openStore(t, o)
	var each int64
	for i := range blobs {
		each = put(t, s, digest(i), content(i, mib))
		lasting(t, s, digest(i))
		if i >= damaged {
			continue
		}
		if err := s.SetAside(digest(i), each); err != nil {
			t.Fatal(err)
		}
	}
	return s, each
}

// TestSetAside: a damaged file lies in damaged/, counts as used, and is found there by
// the next process; the blob's place is free.
func TestSetAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := open(Options{Dir: dir, Limit: 1 << 30}, testBoot)
	if err != nil {
		t.Fatal(err)
	}
	var each int64
	for i := range 2 {
		each = put(t, s, digest(i), content(i, mib))
		lasting(t, s, digest(i))
	}
	before := s.Usage().Used
	if err := s.SetAside(digest(0), each); err != nil {
		t.Fatal(err)
	}
	if used := s.Usage().Used - before; used != 4096 { // the folder
		t.Errorf("setting aside took %d bytes", used)
	}
	if _, err := s.OpenFile(digest(0)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is in its place still: %v", err)
	}
	if !exists(t, dir, asidePlace(digest(0))) {
		t.Error("nothing is set aside")
	}
	lies := func(s *Store) (n int64) {
		err := filepath.Walk(dir, func(_ string, fi os.FileInfo, err error) error {
			n += durable.Allocated(fi)
			return err
		})
		fi, serr := os.Stat(dir)
		if err != nil || serr != nil {
			t.Fatal(err, serr)
		}
		return n - durable.Allocated(fi)
	}
	closeStore(t, s)
	if s, err = open(Options{Dir: dir, Limit: 1 << 30, Used: each}, testBoot); err != nil {
		t.Fatal(err)
	}
	if used := s.Usage().Used; used != lies(s) {
		t.Errorf("the account says %d bytes, %d lie there", used, lies(s))
	}
	if !s.DropAside() || s.DropAside() || exists(t, dir, asidePlace(digest(0))) {
		t.Error("it does not go, or goes twice")
	}
	if used := s.Usage().Used; used != lies(s) {
		t.Errorf("without it the account says %d bytes, %d lie there", used, lies(s))
	}
	closeStore(t, s)
}

// TestAsideBounds: no more are kept than there is room for, the last ones, and none that
// is too large.
func TestAsideBounds(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int64]int{0: asideMost, 60 * mib: 3, 19 * mib: 0} {
		dir, damaged := t.TempDir(), asideMost+2
		s, each := damagedStore(t, Options{Dir: dir, Limit: limit}, damaged, damaged)
		for i := range damaged {
			if kept := exists(t, dir, asidePlace(digest(i))); kept != (i >= damaged-want) {
				t.Errorf("limit %d: number %d is kept: %v", limit, i, kept)
			}
		}
		before := s.Usage().Used
		put(t, s, digest(damaged-1), content(1, mib))
		if err := s.SetAside(digest(damaged-1), each); err != nil { // once more: it replaces the one before
			t.Error(err)
		}
		if used := s.Usage().Used; used != before {
			t.Errorf("limit %d: %d bytes are used, and were %d", limit, used, before)
		}
	}
}

// TestAsideWithReader: who reads a blob that is set aside reads on, and its space is given
// back when both are done with it.
func TestAsideWithReader(t *testing.T) {
	t.Parallel()
	s, each := damagedStore(t, Options{Limit: 1 << 30}, 1, 0)
	f, err := s.OpenFile(digest(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetAside(digest(0), each); err != nil {
		t.Fatal(err)
	}
	before := s.Usage()
	if got := make([]byte, 1); !s.DropAside() {
		t.Error("it does not go")
	} else if _, err := f.ReadAt(got, 0); err != nil || got[0] != '0' {
		t.Errorf("%q, %v", got, err)
	}
	if u := s.Usage(); u.Used != before.Used || u.EvictedOpen != each {
		t.Errorf("while it is read: %+v", u)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if u := s.Usage(); u.Used != before.Used-each || u.EvictedOpen != 0 {
		t.Errorf("after: %+v", u)
	}
}
