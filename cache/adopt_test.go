package cache

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// plant writes files that nobody has a record of, each of them another blob.
func plant(t testing.TB, dir string, n int) (ds []oci.Digest) {
	t.Helper()
	for i := range n {
		data := fmt.Appendf(nil, "planted %d", i)
		d := oci.FromBytes(data)
		shard := filepath.Join(dir, "blobs/sha256", d.Hex()[:2])
		if err := os.MkdirAll(shard, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(shard, d.Hex()), data, 0o600); err != nil {
			t.Fatal(err)
		}
		ds = append(ds, d)
	}
	return ds
}

// TestAdoptionIsCounted: each file counts as hashed, be it large or small, and as
// damaged if it is.
func TestAdoptionIsCounted(t *testing.T) {
	t.Parallel()
	c, _, blobs := stocked(t, newOrigin())
	c.close()
	for _, d := range blobs[1:] { // a small one and a large one
		if err := os.Truncate(c.path("blobs", d), 30<<10); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(c.path("blobs", blobs[2]), 2*mib); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c.o.indexPath()); err != nil {
		t.Fatal(err)
	}
	next := open(t, Options{Dir: c.o.Dir})
	next.rebuilt()
	if got := next.Stats().Rebuild; got.Files != 4 || got.Hashed != 4 || got.Damaged != 2 {
		t.Errorf("%+v", got)
	}
	next.account()
}

// TestNoRoomForRecords: what is proven does not gather in memory where the disk
// takes no records, and has them once it does.
func TestNoRoomForRecords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir, most := t.TempDir(), 0
		ds := plant(t, dir, 4*recordAt)
		var full atomic.Bool
		full.Store(true)
		c := open(t, Options{Dir: dir, index: index.Options{NoSync: true, Hook: func(op string, call func() error) error {
			if op == "apply" && full.Load() {
				return &fs.PathError{Op: "write", Path: "index.db", Err: syscall.ENOSPC}
			}
			return call()
		}}})
		for range 4 {
			time.Sleep(3 * time.Second)
			synctest.Wait()
			most = max(most, c.waiting())
		}
		if bound := 2*recordAt + (c.provers()+1)*provenAtOnce; most < recordAt || most > bound {
			t.Errorf("%d blobs wait for their record, at most %d are to", most, bound)
		}
		full.Store(false)
		time.Sleep(proveAgain)
		synctest.Wait()
		c.rebuilt()
		for _, d := range ds {
			if _, ok, err := c.idx.Load().Get(d); !ok {
				t.Fatalf("%s has no record: %v", d, err)
			}
		}
		c.account()
		c.close()
	})
}

// TestRoughly: a time is rounded down by a 32nd of its age at most, so that there
// are few, and keeps its place among others.
func TestRoughly(t *testing.T) {
	t.Parallel()
	const span = 30 * 24 * time.Hour
	now := time.Unix(1_800_000_000, 12345)
	rng := rand.New(rand.NewPCG(1, 1))
	var all []time.Time
	for range 10_000 {
		all = append(all, now.Add(-time.Duration(rng.Int64N(int64(span)))))
	}
	slices.SortFunc(all, time.Time.Compare)
	places := 0
	var last time.Time
	for _, at := range append(all, now, now) {
		got := roughly(at, now)
		if off := at.Sub(got); off < 0 || off > now.Sub(at)/32 {
			t.Fatalf("%v, %v old, is taken for %v: %v off", at, now.Sub(at), got, off)
		}
		if got.Before(last) {
			t.Fatalf("%v comes after a later one", at)
		}
		if got.After(last) {
			places++
		}
		last = got
	}
	if places > 300 {
		t.Errorf("10000 times are %d", places)
	}
	if later := now.Add(time.Hour); !roughly(later, now).Equal(later) {
		t.Error("a time to come is another")
	}
}
