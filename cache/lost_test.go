package cache

import (
	"bytes"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// rot damages the records of blobs, and the totals if that is wanted, in an index
// that nobody has open.
func rot(t interface {
	Errorf(format string, args ...any)
}, path string, totals bool, ds ...oci.Digest) {
	db, err := bolt.Open(path, 0, nil)
	if err != nil {
		t.Errorf("damaging the index: %v", err)
		return
	}
	damaged := 0
	damage := func(b *bolt.Bucket, k, v []byte) error {
		damaged++
		v = bytes.Clone(v)
		v[len(v)/2] ^= 1
		return b.Put(bytes.Clone(k), v)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if meta := tx.Bucket([]byte("meta")); totals {
			if err := damage(meta, []byte("totals"), meta.Get([]byte("totals"))); err != nil {
				return err
			}
			damaged--
		}
		blobs := tx.Bucket([]byte("blobs"))
		return blobs.ForEach(func(k, v []byte) error {
			d, _ := oci.FromSum(k[1:])
			for _, bad := range ds {
				if d == bad {
					return damage(blobs, k, v)
				}
			}
			return nil
		})
	})
	if cerr := db.Close(); err != nil || cerr != nil || damaged != len(ds) {
		t.Errorf("damaging the index: %d records, %v, %v", damaged, err, cerr)
	}
}

// TestDamagedRecords: whoever meets them, the files of records that are damaged
// are counted once, go on as blobs, and can be evicted.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		name   string
		totals bool
		meet   func(c *rig, o *origin, ds []oci.Digest)
	}{
		{"who asks", false, func(c *rig, o *origin, ds []oci.Digest) {
			for _, d := range ds {
				c.want(o.repo("a"), d, OutcomeHit)
			}
		}},
		{"the evictor", false, func(c *rig, _ *origin, _ []oci.Digest) {
			if _, err := c.idx.Load().Victims(time.Time{}, 1<<40, [index.Classes]int64{}, c.lastTouch, c.passOver); err != nil {
				c.t.Error(err)
			}
		}},
		{"the start", true, func(*rig, *origin, []oci.Digest) {}},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin()
			c, _, blobs := stocked(t, o)
			c.close()
			rot(t, c.o.indexPath(), s.totals, blobs[:2]...)
			fetched := o.count("blob")
			next := open(t, Options{Dir: c.o.Dir})
			s.meet(next, o, blobs[:2])
			next.idle()
			next.rebuilt()
			next.checkpoint()
			for _, d := range blobs {
				if _, ok, err := next.idx.Load().Get(d); !ok || err != nil {
					t.Errorf("%s has no record, %v", d, err)
				}
			}
			next.account()
			if next.store.Unproven() {
				t.Error("the mark is there for ever")
			}
			next.close()
			again := open(t, Options{Dir: c.o.Dir})
			again.account()
			victims, err := again.idx.Load().Victims(time.Time{}, 1<<40, [index.Classes]int64{}, nil, nil)
			if err != nil || len(victims) != 4 {
				t.Errorf("%d blobs can be evicted, %v", len(victims), err)
			}
			for _, d := range blobs {
				again.want(o.repo("a"), d, OutcomeHit)
			}
			if n := o.count("blob") - fetched; n != 0 {
				t.Errorf("%d were fetched again", n)
			}
		})
	}
}

// TestDamagedRecordThenKilled: a record that was damaged is deleted, and the
// process ends before its file has another. The next one counts it all the same.
func TestDamagedRecordThenKilled(t *testing.T) {
	t.Parallel()
	text := inBubble(t, 64*mib, func(w *world) {
		bad := library()[4]
		w.next(nil)
		w.pullAll(1, 3, 4)
		w.stop()
		rot(w, filepath.Join(w.index.dir, indexName), false, bad.d)
		few := true
		w.faultAt(func(op durabletest.Op) *durabletest.Fault {
			if few && op.Kind == "rename" && strings.HasSuffix(op.Name, bad.d.Hex()) {
				return &durabletest.Fault{Err: syscall.EMFILE}
			}
			if few && op.Kind == "open" && strings.HasSuffix(op.Name, bad.d.Hex()) {
				return &durabletest.Fault{Err: syscall.EMFILE}
			}
			return nil
		})
		w.next(nil)
		synctest.Wait()
		w.c.findStored(bad.d)
		w.c.checkpoint()
		w.pull(library()[0])
		synctest.Wait()
		w.c.checkpoint()
		if _, ok, err := w.c.idx.Load().Get(bad.d); ok || err != nil || w.c.idx.Load().Stats().BadValues == 0 {
			w.Errorf("void: %v, %v, %d", ok, err, w.c.idx.Load().Stats().BadValues)
		}
		w.kill()
		few = false
		w.next(nil)
		w.settle()
		w.counted()
		if _, ok := w.c.findStored(bad.d); !ok {
			w.Errorf("it has no record")
		}
		w.well()
	})
	if text != "" {
		t.Error(text)
	}
}

// TestDamagedRecordIsDeleted: also where there is nothing else to write, and no
// file of it, so that whoever asks is not the cause of a look at all files.
func TestDamagedRecordIsDeleted(t *testing.T) {
	t.Parallel()
	text := inBubble(t, 64*mib, func(w *world) {
		bad := library()[4]
		w.next(nil)
		w.pullAll(1, 4)
		w.stop()
		rot(w, filepath.Join(w.index.dir, indexName), false, bad.d)
		w.disk = w.disk.Kill()
		if err := w.disk.Remove("blobs/sha256/" + bad.d.Hex()[:2] + "/" + bad.d.Hex()); err != nil {
			w.Errorf("removing its file: %v", err)
		}
		w.next(nil)
		w.settle()
		for range 3 {
			w.c.findStored(bad.d)
			w.checkpoint()
		}
		if n := w.c.idx.Load().Stats().BadValues; n != 1 {
			w.Errorf("it was met %d times", n)
		}
	})
	if text != "" {
		t.Error(text)
	}
}
