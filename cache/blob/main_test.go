package blob

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"cistern/internal/leaktest"
	"cistern/internal/oci"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const testBoot = "boot-1"

// openStore opens a Store that the test's end closes, with its ledger checked.
func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := open(o, testBoot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

// closeStore closes and finds nothing reserved and nobody reading.
func closeStore(t testing.TB, s *Store) {
	t.Helper()
	l := s.ledger
	if l.reserved != 0 || l.written != 0 || l.evictedOpen != 0 || len(l.waiting) != 0 {
		t.Errorf("left behind: reserved %d, written %d, evicted but open %d, waiting %d", l.reserved, l.written, l.evictedOpen, len(l.waiting))
	}
	if n := len(s.opens.m); n != 0 {
		t.Errorf("left behind: %d digests with readers", n)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func content(i, size int) []byte {
	b := make([]byte, size)
	copy(b, fmt.Append(nil, i))
	return b
}

func digest(i int) oci.Digest { return oci.FromBytes(fmt.Append(nil, i)) }

func reserve(t testing.TB, s *Store, n int64) *Reservation {
	t.Helper()
	r, err := s.Reserve(context.Background(), n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// put commits a fill and gives its allocated bytes.
func put(t testing.TB, s *Store, d oci.Digest, data []byte) int64 {
	t.Helper()
	in, err := s.Create(d, reserve(t, s, int64(len(data))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(data); err != nil {
		t.Fatal(err)
	}
	allocated, err := in.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return allocated
}

// read gives what OpenFile serves.
func read(t testing.TB, s *Store, d oci.Digest) (string, error) {
	t.Helper()
	f, err := s.OpenFile(d)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(f)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if int64(len(data)) != f.Size {
		t.Errorf("size %d, read %d", f.Size, len(data))
	}
	return string(data), err
}

// lasting makes blobs as a checkpoint does, without the record.
func lasting(t testing.TB, s *Store, ds ...oci.Digest) {
	t.Helper()
	if failed := s.Sync(ds); len(failed) > 0 {
		t.Fatal(failed)
	}
	for _, d := range ds {
		if err := s.Promote(d); err != nil {
			t.Fatal(err)
		}
	}
}

// exists tells whether the directory of s holds name.
func exists(t testing.TB, dir, name string) bool {
	t.Helper()
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}
