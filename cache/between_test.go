package cache

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// TestEvictedAndBackInACheckpoint: a blob that goes and comes back while the
// checkpoint makes other removals durable has a record in the end, and keeps it.
func TestEvictedAndBackInACheckpoint(t *testing.T) {
	t.Parallel()
	var during atomic.Pointer[func()]
	o, c := newOrigin(), faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
		if run := during.Load(); op.Kind == "syncdir" && strings.HasPrefix(op.Name, "blobs/") && run != nil && during.CompareAndSwap(run, nil) {
			return &durabletest.Fault{After: *run}
		}
		return nil
	})
	other, d := o.put(noise(mib, 1)), o.put(noise(mib, 2))
	evict := func(d oci.Digest) {
		if rec, ok := c.findStored(d); !ok || !c.expel(recordsOf(rec)) {
			t.Error("not evicted")
		}
	}
	c.want(o.repo("a"), other, OutcomeMiss)
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	c.checkpoint()
	evict(other)
	run := func() {
		evict(d)
		c.want(o.repo("a"), d, OutcomeMiss)
		c.idle()
	}
	during.Store(&run)
	for range 3 {
		c.checkpoint()
		c.want(o.repo("a"), d, OutcomeHit)
	}
	if during.Load() != nil {
		t.Fatal("nothing happened in the checkpoint")
	}
	if _, ok, err := c.idx.Load().Get(d); !ok || err != nil {
		t.Errorf("it has no record: %v", err)
	}
	if s := c.Stats(); s.Blobs != 1 {
		t.Errorf("%d blobs", s.Blobs)
	}
}

// TestFailedFsyncAndUnlink: what could not be synced, and cannot be removed, is
// given to nobody and not recorded by the next checkpoint. FAULTS 0.4.
func TestFailedFsyncAndUnlink(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	o, c := newOrigin(), faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
		if armed.Load() && (op.Kind == "fsync" || op.Kind == "remove") {
			return &durabletest.Fault{Err: syscall.EIO}
		}
		return nil
	})
	d := o.put(noise(mib, 3))
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	armed.Store(true)
	c.checkpoint()
	armed.Store(false)
	c.checkpoint()
	if _, ok, err := c.idx.Load().Get(d); ok || err != nil {
		t.Errorf("it has a record, %v", err)
	}
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	c.checkpoint()
	c.want(o.repo("a"), d, OutcomeHit)
}

// TestCountingFailsOnce: as long as nobody knows how much lies there nothing is kept,
// and it is found out in the end.
func TestCountingFailsOnce(t *testing.T) {
	t.Parallel()
	text := inBubble(t, storyLimit, func(w *world) {
		w.next(nil)
		w.pullAll(0, 3, 4)
		w.stop()
		w.loseIndex()
		failed := false
		w.faultAt(func(op durabletest.Op) *durabletest.Fault {
			if failed || op.Kind != "readdir" || !strings.HasPrefix(op.Name, "blobs/sha256/") {
				return nil
			}
			failed = true
			return &durabletest.Fault{Err: syscall.EIO}
		})
		w.next(nil)
		synctest.Wait()
		if !failed || w.c.keeping() {
			w.Errorf("failed %v, keeping %v", failed, w.c.keeping())
		}
		time.Sleep(renewEvery)
		w.settle()
		if !w.c.keeping() {
			w.Errorf("it keeps nothing")
		}
		w.counted()
	})
	if text != "" {
		t.Error(text)
	}
}

// TestTagsInACheckpoint: what a checkpoint is just writing of tags is known
// meanwhile, and what the index still says is not.
func TestTagsInACheckpoint(t *testing.T) {
	t.Parallel()
	var during atomic.Pointer[func()]
	co := Options{}
	co.index.Hook = func(op string, call func() error) error {
		if run := during.Swap(nil); op == "apply" && run != nil {
			(*run)()
		} else if run != nil {
			during.Store(run)
		}
		return call()
	}
	c, o := open(t, co), newOrigin()
	ref := func(tag string) oci.Reference {
		return oci.Reference{Repository: o.repo("a").Repository, Tag: tag}
	}
	one, two := oci.Descriptor{Digest: oci.FromBytes([]byte("1")), Size: 1}, oci.Descriptor{Digest: oci.FromBytes([]byte("2")), Size: 1}
	c.setTag(ref("moves"), one, false)
	c.setTag(ref("goes"), one, false)
	c.checkpoint()
	c.setTag(ref("moves"), two, false)
	c.dropTag(ref("goes"), whyNotFound)
	check := func() {
		c.tags.Purge()
		if got, ok := c.tag(ref("moves")); !ok || got.Target.Digest != two.Digest {
			t.Errorf("the tag that moved: %v, %v", got.Target.Digest, ok)
		}
		if _, ok := c.tag(ref("goes")); ok {
			t.Error("the tag that went is known")
		}
	}
	during.Store(&check)
	c.checkpoint()
	if during.Load() != nil {
		t.Fatal("nothing happened in the checkpoint")
	}
	check()
}

// TestRelabelledAndEvicted: a removal is made durable before the record goes,
// also if the record was to get another label.
func TestRelabelledAndEvicted(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	text := o.image()
	d := o.tag("v1", text)
	o.put([]byte(text))
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	c.checkpoint()
	c.syncing.Lock() // no checkpoints
	if _, err := c.Manifest(t.Context(), o.repo("a"), oci.Reference{Repository: o.repo("a").Repository, Digest: d}); err != nil {
		t.Fatal(err)
	}
	rec, ok := c.findStored(d)
	if !ok || rec.Class != index.ClassManifest {
		t.Errorf("%+v", rec)
	}
	c.expel(recordsOf(rec))
	c.mu.Lock()
	if g := c.gone[d]; !g.recorded || !g.unsynced {
		t.Errorf("%+v", g)
	}
	c.mu.Unlock()
	c.syncing.Unlock()
}
