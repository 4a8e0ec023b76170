package index

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"cistern/internal/oci"
)

// The file loses its pages while everybody is in it.
func TestTruncatedUnderneath(t *testing.T) {
	t.Parallel()
	path := filled(t)
	x := openIndex(t, path)
	if err := os.Truncate(path, 3*4096); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				if _, _, err := x.Get(digest(g*200 + i)); err != nil && !errors.Is(err, ErrBroken) {
					t.Errorf("get: %v", err)
				}
			}
			if err := x.Apply(Batch{Put: []Record{record(g, 1)}}); !errors.Is(err, ErrBroken) {
				t.Errorf("apply: %v", err)
			}
		})
	}
	wg.Wait()
	if err := x.Broken(); !errors.Is(err, ErrBroken) {
		t.Errorf("broken: %v", err)
	}
}

func TestDamagedValueIsAMissAndGoes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "index.db")
	x := openIndex(t, path)
	repo := oci.Repository{Upstream: "u", Name: "n"}
	ref := oci.Reference{Repository: repo, Tag: "t"}
	apply(t, x, Batch{
		Put:       []Record{record(1, 4096), record(2, 4096)},
		PutTags:   []Tag{{Reference: ref, Target: oci.Descriptor{Digest: digest(1)}}},
		PutGrants: []Grant{{repo, digest(2), at(0)}},
		Departed:  []Departure{{Digest: digest(3), Why: Evicted, At: at(0)}},
	})
	err := x.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketBlobs, bucketTags, bucketGrants, bucketDeparted} {
			k, v := tx.Bucket(name).Cursor().First()
			if string(name) == string(bucketBlobs) {
				k = digestKey(digest(1))
				v = tx.Bucket(name).Get(k)
			}
			bad := append([]byte(nil), v...)
			bad[len(bad)/2] ^= 4
			if err := tx.Bucket(name).Put(k, bad); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := get(t, x, digest(1)); ok {
		t.Error("a damaged record is a hit")
	}
	if _, ok, err := x.Tag(ref); ok || err != nil {
		t.Errorf("a damaged tag: %v, %v", ok, err)
	}
	if ok, err := x.Granted(repo, digest(2)); ok || err != nil {
		t.Errorf("a damaged grant: %v, %v", ok, err)
	}
	if _, ok := departed(t, x, 3); ok {
		t.Error("a damaged departure is known")
	}
	if got := x.Stats().BadValues; got != 4 {
		t.Errorf("%d bad values counted", got)
	}
	if vs, err := x.Victims(time.Time{}, 1<<30, [Classes]int64{}, nil, nil); err != nil || len(vs) != 1 {
		t.Errorf("victims %v, %v", vs, err)
	}
	apply(t, x, Batch{})
	if n, bytes := x.Totals().Sum(); n != 1 || bytes != 4096 {
		t.Errorf("totals after it went: %d, %d", n, bytes)
	}
	bad := x.Stats().BadValues
	get(t, x, digest(1))
	if _, err := x.Victims(time.Time{}, 1<<30, [Classes]int64{}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if x.Stats().BadValues != bad {
		t.Error("it is still there")
	}
}

func TestLostTotalsAreCountedAnew(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "index.db")
	x, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, x, Batch{Put: []Record{record(1, 4096), record(2, 2<<20)}})
	want := x.Totals()
	err = x.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyTotals, []byte("x")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if got := openIndex(t, path).Totals(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A disk that takes nothing now is no damage: what was there is there, and the
// next Apply may work. A failed fsync is, whatever it says.
func TestCommitErrors(t *testing.T) {
	t.Parallel()
	write := func(err error) error { return &os.PathError{Op: "write", Path: "index.db", Err: err} }
	for _, c := range []struct {
		err           error
		grown, broken bool
	}{
		{write(syscall.ENOSPC), false, false},
		{write(syscall.EDQUOT), true, false},
		{write(syscall.EROFS), false, false},
		{write(syscall.EROFS), true, false},
		{write(syscall.EIO), false, true},
		{syscall.EIO, false, true}, // fdatasync
		{syscall.EROFS, false, true},
		{syscall.ENOSPC, false, true},
		{errors.New("file resize error: read-only file system"), false, false},
		{errors.New("file sync error: input/output error"), true, true},
	} {
		x := newIndex(t)
		apply(t, x, Batch{Put: []Record{record(1, 1)}})
		err := x.commitFailed("apply", c.err, c.grown)
		if errors.Is(err, ErrBroken) != c.broken || !errors.Is(err, c.err) || (x.Broken() != nil) != c.broken {
			t.Errorf("%v, grown %v: %v; %v", c.err, c.grown, err, x.Broken())
		}
		err = x.Apply(Batch{Put: []Record{record(2, 1)}})
		if errors.Is(err, ErrBroken) != c.broken || c.broken && !strings.Contains(err.Error(), c.err.Error()) {
			t.Errorf("%v, afterwards: %v", c.err, err)
		}
	}
}

func TestCallersPanicIsTheCallers(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	apply(t, x, Batch{Put: []Record{record(1, 1)}})
	func() {
		defer func() {
			if p := recover(); p != "mine" {
				t.Errorf("recovered %v", p)
			}
		}()
		_, err := x.Victims(time.Time{}, 1, [Classes]int64{}, nil, func(oci.Digest) bool { panic("mine") })
		t.Errorf("no panic, %v", err)
	}()
	if _, ok := get(t, x, digest(1)); !ok || x.Broken() != nil {
		t.Errorf("the index broke: %v", x.Broken())
	}
}
