package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cistern/cache/index"
	"cistern/internal/durable"
	"cistern/internal/durable/durabletest"
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
	must(t, os.WriteFile(c.path("blobs", blobs[2]), noise(2*mib, 33), 0o600))
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

// TestAdoptedIsLasting: a record means that the file is on stable storage, also
// that of a file which came from anywhere and which nobody has synced. One system
// call does for all; where it fails, or a file came after it, each is synced.
func TestAdoptedIsLasting(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		refused bool // SyncAll
		young   bool // the files change no earlier than it begins
		fsyncs  int
	}{"at once": {fsyncs: 0}, "one by one": {refused: true, fsyncs: 20}, "younger": {young: true, fsyncs: 20}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				disk := durabletest.New(durabletest.Options{})
				ds := plantIn(t, disk, 20)
				if !c.young {
					time.Sleep(time.Second)
				}
				seam := &durabletest.Faulty{FS: disk, Choose: func(op durabletest.Op) *durabletest.Fault {
					if op.Kind == "syncall" && c.refused {
						return &durabletest.Fault{Err: syscall.EIO}
					}
					return nil
				}}
				r, err := Open(Options{Dir: "memory", fs: seam, indexDir: t.TempDir(), index: index.Options{NoSync: true}})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = r.Close() }() // the power is gone then
				synctest.Wait()
				if r.rebuild.on.Load() {
					t.Error("it is at it still")
				}
				fsyncs := 0
				for _, op := range seam.Trace() {
					if op.Kind == "fsync" && strings.HasPrefix(op.Name, "blobs/") {
						fsyncs++
					}
				}
				if fsyncs != c.fsyncs {
					t.Errorf("%d files were synced, not %d", fsyncs, c.fsyncs)
				}
				for _, d := range ds {
					if _, ok, err := r.idx.Load().Get(d); !ok {
						t.Fatalf("%s has no record: %v", d, err)
					}
				}
				for seed := range 50 {
					after := disk.Crash(rand.New(rand.NewPCG(uint64(seed), 0)))
					for _, d := range ds {
						name := path.Join("blobs/sha256", d.Hex()[:2], d.Hex())
						if data, err := durable.ReadFile(after, name); err != nil || oci.FromBytes(data) != d {
							t.Fatalf("after a power cut %s, which has a record, is %q, %v", name, data, err)
						}
					}
				}
			})
		})
	}
}

// plantIn is plant for a disk in memory: nothing is synced.
func plantIn(t *testing.T, disk durable.FS, n int) (ds []oci.Digest) {
	t.Helper()
	for i := range n {
		data := fmt.Appendf(nil, "planted %d", i)
		d := oci.FromBytes(data)
		name := path.Join("blobs/sha256", d.Hex()[:2], d.Hex())
		if _, err := durable.MkdirAll(disk, path.Dir(name)); err != nil {
			t.Fatal(err)
		}
		f, err := disk.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_, err = f.Write(data)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		ds = append(ds, d)
	}
	return ds
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
