package blob

import (
	"strings"
	"testing"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// TestOpenedBetweenTwoFiles: whoever opens a digest while its file is removed and
// another is made reads the one that is there, with its length, and is known as
// a reader of that one: its space is used until it is closed.
func TestOpenedBetweenTwoFiles(t *testing.T) {
	t.Parallel()
	d := digest(1)
	var between func()
	s := openStore(t, Options{FS: &durabletest.Faulty{
		FS: durabletest.New(durabletest.Options{}),
		Choose: func(op durabletest.Op) *durabletest.Fault {
			if run := between; run != nil && op.Kind == "open" && strings.HasPrefix(op.Name, "blobs/") {
				between = nil
				return &durabletest.Fault{After: run}
			}
			return nil
		},
	}})
	if err := s.Remove(d, put(t, s, d, content(0, 1))); err != nil { // the folders are there
		t.Fatal(err)
	}
	before := s.Usage().Used
	first := put(t, s, d, content(1, 10_000))
	var second int64
	between = func() { // it looks in blobs/, in vain, and comes to fills/
		if err := s.Remove(d, first); err != nil {
			t.Error(err)
		}
		second = put(t, s, d, content(2, 100_000))
	}
	f, err := s.OpenFile(d)
	if err != nil {
		t.Fatal(err)
	}
	if f.Size != 100_000 || !s.Reading(d) {
		t.Errorf("a file of %d bytes, known as read: %v", f.Size, s.Reading(d))
	}
	if u := s.Usage(); u.EvictedOpen != 0 {
		t.Errorf("%d bytes of the first file are held", u.EvictedOpen)
	}
	if err := s.Remove(d, second); err != nil {
		t.Fatal(err)
	}
	if u := s.Usage(); u.EvictedOpen != second {
		t.Errorf("%d bytes are held by a reader of %d", u.EvictedOpen, second)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if u := s.Usage(); u.EvictedOpen != 0 || u.Used != before {
		t.Errorf("%+v, %d bytes more than before", u, u.Used-before)
	}
}

// TestSyncedBetweenTwoFiles: the same for a checkpoint, which holds a file until
// it is synced.
func TestSyncedBetweenTwoFiles(t *testing.T) {
	t.Parallel()
	d := digest(1)
	var s *Store
	var between, during func()
	s = openStore(t, Options{FS: &durabletest.Faulty{
		FS: durabletest.New(durabletest.Options{}),
		Choose: func(op durabletest.Op) *durabletest.Fault {
			if run := between; run != nil && op.Kind == "open" && strings.HasPrefix(op.Name, "fills/") {
				between = nil
				run()
			}
			if run := during; run != nil && op.Kind == "fsync" && strings.HasPrefix(op.Name, "fills/") {
				during = nil
				run()
			}
			return nil
		},
	}})
	first, second := put(t, s, d, content(1, 10_000)), int64(0)
	between = func() {
		if err := s.Remove(d, first); err != nil {
			t.Error(err)
		}
		second = put(t, s, d, content(2, 100_000))
	}
	during = func() {
		if err := s.Remove(d, second); err != nil {
			t.Error(err)
		}
		if u := s.Usage(); u.EvictedOpen != second {
			t.Errorf("%d bytes are held by the sync of %d", u.EvictedOpen, second)
		}
	}
	s.Sync([]oci.Digest{d})
	if between != nil || during != nil || s.Usage().EvictedOpen != 0 {
		t.Errorf("%d bytes are held", s.Usage().EvictedOpen)
	}
}
