package cache

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cistern/internal/durable/durabletest"
)

// TestStrayUnreadable: a file without a record that the disk does not give stays, and
// Verify says why; once the disk gives it, it is recorded.
func TestStrayUnreadable(t *testing.T) {
	t.Parallel()
	for i, name := range []string{"large", "middle", "small"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var bad atomic.Bool
			c := faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
				if op.Kind == "read" && strings.HasPrefix(op.Name, "blobs/") && bad.Load() {
					return &durabletest.Fault{Err: syscall.EIO}
				}
				return nil
			})
			layers, _ := kept(t, c, newOrigin())
			rec, _ := c.findStored(layers[i])
			c.forget(rec, 0) // the record is lost, the file is not
			c.store.AddUsed(-rec.Allocated)
			c.checkpoint()
			used := c.store.Usage().Used
			bad.Store(true)
			for range 2 {
				found := c.verify(nil)
				if f := found[layers[i].String()]; len(found) != 1 || f.Repaired || !strings.Contains(f.Then, "left alone: it cannot be read") {
					t.Errorf("%+v", found)
				}
			}
			if n := c.store.Usage().Used - used; n != rec.Allocated || c.rebuild.on.Load() {
				t.Errorf("the account has %d bytes for it, of %d", n, rec.Allocated)
			}
			bad.Store(false)
			if f := c.verify(nil)[layers[i].String()]; !f.Repaired {
				t.Errorf("%+v", f)
			}
			if n := c.store.Usage().Used - used; n != rec.Allocated {
				t.Errorf("recorded, the account has %d bytes for it, of %d", n, rec.Allocated)
			}
		})
	}
}

// TestStrayStays: of a file without a record that cannot be removed Verify says so and
// ends, and the scrub goes on.
func TestStrayStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var bad atomic.Pointer[string]
		c := faultyRig(t, Options{ScrubRate: mib}, func(op durabletest.Op) *durabletest.Fault {
			if p := bad.Load(); p != nil && (op.Kind == "remove" || op.Kind == "rename") && strings.HasSuffix(op.Name, *p) {
				return &durabletest.Fault{Err: syscall.EACCES}
			}
			return nil
		})
		layers, _ := kept(t, c, newOrigin())
		rec, _ := c.findStored(layers[2])
		c.forget(rec, 0)
		c.checkpoint()
		hex := layers[2].Hex()
		f, err := c.o.fs.OpenFile("blobs/sha256/"+hex[:2]+"/"+hex, os.O_RDWR, 0)
		must(t, err)
		_, err = f.Write([]byte("wrong"))
		must(t, errors.Join(err, f.Close()))
		bad.Store(&hex)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var found []Finding
		_, err = c.Verify(ctx, Verification{Found: func(f Finding) { found = append(found, f) }, Progress: func(VerifyProgress) {}})
		if err != nil || len(found) != 1 || !strings.Contains(found[0].Then, "cannot be removed") {
			t.Errorf("%v, %+v", err, found)
		}
		was := c.Stats().Scrub.Bytes
		time.Sleep(8 * time.Hour)
		if n := c.Stats().Scrub.Bytes - was; c.rebuild.on.Load() || n == 0 {
			t.Errorf("the rebuilding goes on: %v; the scrub has read %d bytes", c.rebuild.on.Load(), n)
		}
		c.close()
	})
}

// TestIndexLostDamaged: after the loss of an index what is damaged is set aside and told
// by Verify, however large it is.
func TestIndexLostDamaged(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{Limit: 1 << 30})
	layers, _ := kept(t, c, o)
	file := c.fileOf(layers[0])
	small, dir := c.fileOf(layers[2]), c.o.Dir
	c.close()
	flip(t, file, 2*mib+17)
	flip(t, small, 17)
	must(t, os.Remove(dir+"/index.db"))
	c = open(t, Options{Dir: dir, Limit: 1 << 30})
	found := c.verify(nil)
	for _, i := range []int{0, 2} {
		f := found[layers[i].String()]
		if _, err := os.Stat(c.asideOf(layers[i])); err != nil || f.SetAside == "" || !strings.Contains(f.What, "not those of its digest") {
			t.Errorf("%v, %+v", err, f)
		}
	}
	if len(found) != 2 || c.Stats().Damaged != 2 {
		t.Errorf("%+v, %d damaged", found, c.Stats().Damaged)
	}
	c.rebuilt()
	c.account()
	if found := c.verify(nil); len(found) > 0 {
		t.Errorf("once more: %+v", found)
	}
}
