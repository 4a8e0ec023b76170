package cache

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// TestPanics: a panic ends one piece of work, is counted, and leaves nothing
// behind: no reserved byte, no open fill, no half-written index. FAULTS row 44.
func TestPanics(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"create", "write", "fsync", "syncdir", "rename", "remove", "free"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var armed atomic.Bool
			var thrown atomic.Int32
			c := faultyRig(t, Options{Limit: 8 * mib}, func(op durabletest.Op) *durabletest.Fault {
				if op.Kind == kind && armed.CompareAndSwap(true, false) {
					thrown.Add(1)
					return &durabletest.Fault{Panic: "injected"}
				}
				return nil
			})
			o := newOrigin()
			for i := range uint64(12) { // more than fits
				armed.Store(true)
				size := mib
				if i%3 == 0 {
					size = 50 << 10
				}
				d := o.put(noise(size, 80+i))
				if got, _, err := c.get(o.repo("a"), d); err == nil && oci.FromBytes(got) != d || err != nil && int(thrown.Load()) == 0 {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				c.idle()
				c.checkpoint()
				armed.Store(false)
				if got, _, err := c.get(o.repo("a"), d); err != nil || oci.FromBytes(got) != d {
					t.Errorf("after a panic: %d bytes, %v", len(got), err)
				}
				c.idle()
			}
			if thrown.Load() == 0 {
				t.Fatal("nothing panicked")
			}
			sync := strings.Contains(kind, "sync") // the store takes that for a file that failed
			if s := c.Stats(); s.Panics == 0 && !sync || s.Panics > uint64(thrown.Load()) {
				t.Errorf("%d panics, %d counted", thrown.Load(), s.Panics)
			}
			if u := c.store.Usage(); u.Reserved != 0 {
				t.Errorf("%d bytes reserved", u.Reserved)
			}
		})
	}
}

// TestIndexPanics: it breaks the index as bbolt's own do; the daemon lives, and
// has a new one.
func TestIndexPanics(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"get", "apply", "victims", "tag", "grant"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			var armed atomic.Bool
			oc := Options{Limit: 8 * mib}
			oc.index.Hook = func(name string, call func() error) error {
				if name == op && armed.CompareAndSwap(true, false) {
					panic(fmt.Sprintf("injected into %s", name))
				}
				return call()
			}
			o, c := newOrigin(), open(t, oc)
			o.private = op == "grant"
			armed.Store(true)
			for i := range uint64(12) {
				d := o.put(noise(mib, 120+i))
				if _, err := c.tagged(o, fmt.Sprint("v", i), 0); err != nil && !errors.Is(err, oci.ErrNotFound) {
					t.Error(err)
				}
				if got, _, err := c.get(o.repo("a"), d); err != nil || oci.FromBytes(got) != d {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				c.idle()
				c.checkpoint()
				c.grants.Purge()
				if got, _, err := c.get(o.repo("a"), d); err != nil || oci.FromBytes(got) != d {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				c.checkpoint()
			}
			if armed.Load() {
				t.Fatal("nothing panicked")
			}
			c.rebuilt()
			if c.idx.Load().Broken() != nil || c.Stats().Degraded != "" {
				t.Errorf("%v, %s", c.idx.Load().Broken(), c.Stats().Degraded)
			}
			c.idle()
			c.account()
		})
	}
}

// TestPanicsAtLeftovers: the same where a fill is resumed, a leftover is evicted, or
// the disk is tried: no claim and no reservation stays.
func TestPanicsAtLeftovers(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"open", "stat", "readat", "remove", "create", "write"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var armed atomic.Bool
			c := faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
				if op.Kind == kind && strings.HasPrefix(op.Name, "fills/") && armed.CompareAndSwap(true, false) {
					return &durabletest.Fault{Panic: "injected"}
				}
				return nil
			})
			o := newOrigin()
			data := noise(2*mib, 99)
			d := o.put(data)
			o.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
				return body(2*mib, 0, step{data: data[:mib]}, step{err: oci.ErrDenied})
			}
			_, _, _ = c.get(o.repo("a"), d)
			c.idle()
			c.negative.Purge()
			o.blob = nil
			armed.Store(true)
			switch kind {
			case "remove":
				c.evictLeftover()
			case "create", "write":
				_ = c.Ready()
			default:
				_, _, _ = c.get(o.repo("a"), d)
			}
			c.idle()
			if armed.Load() {
				t.Fatal("nothing panicked")
			}
			c.mu.Lock()
			claims := len(c.writing)
			c.mu.Unlock()
			if u := c.store.Usage(); u.Reserved != 0 || claims != 0 {
				t.Errorf("%d bytes reserved, %d claims", u.Reserved, claims)
			}
			if got, _, err := c.get(o.repo("a"), d); err != nil || oci.FromBytes(got) != d {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			c.idle()
		})
	}
}

// evictLeftover is the evictor's last resort, with its recover.
func (r *rig) evictLeftover() {
	defer func() { _ = recover() }()
	r.dropLeftover()
}

// TestPanicInACheckpoint: what a checkpoint that panicked took to write is written
// by the next: removals, which are nowhere else, and new blobs.
func TestPanicInACheckpoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var armed atomic.Bool
		o, c := newOrigin(), faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
			if op.Kind == "lstat" && strings.HasPrefix(op.Name, "fills/sha256/") && armed.CompareAndSwap(true, false) {
				return &durabletest.Fault{Panic: "injected"} // after the files were synced
			}
			return nil
		})
		old, d := o.put(noise(mib, 110)), o.put(noise(mib, 111))
		c.want(o.repo("a"), old, OutcomeMiss)
		c.idle()
		c.checkpoint()
		c.want(o.repo("a"), d, OutcomeMiss)
		c.idle()
		rec, _ := c.findStored(old)
		c.expel(recordsOf(rec))
		armed.Store(true)
		if c.checkpoint() || armed.Load() || c.Stats().Panics != 1 {
			t.Fatal("nothing panicked")
		}
		if _, here := c.findStored(old); here {
			t.Error("what is gone is here")
		}
		if !c.checkpoint() {
			t.Error("the next one fails")
		}
		_, gone, err1 := c.idx.Load().Get(old)
		_, kept, err2 := c.idx.Load().Get(d)
		if gone || !kept || err1 != nil || err2 != nil {
			t.Errorf("the record of what is gone: %v, of what is new: %v, %v, %v", gone, kept, err1, err2)
		}
		if n := c.Stats().Blobs; n != 1 {
			t.Errorf("%d blobs", n)
		}
		c.want(o.repo("a"), d, OutcomeHit)
		c.close()
	})
}
