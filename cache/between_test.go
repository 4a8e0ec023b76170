package cache

import (
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// held is an index of which the next call of a kind is held, or failed: a
// transaction before it is written, what reads after it has read.
type held struct {
	mu      sync.Mutex
	op      string
	err     error
	at, end chan struct{}
}

func heldRig(t *testing.T) (*rig, *held) {
	h := &held{}
	return open(t, Options{index: index.Options{Hook: h.hook}}), h
}

func (h *held) next(op string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.op, h.err, h.at, h.end = op, err, make(chan struct{}), make(chan struct{})
}

func (h *held) hook(op string, call func() error) (err error) {
	h.mu.Lock()
	mine := op == h.op
	if mine {
		h.op = ""
	}
	h.mu.Unlock()
	switch {
	case !mine:
		return call()
	case h.err != nil:
		return h.err
	}
	if op != "apply" {
		err = call()
	}
	close(h.at)
	<-h.end
	if op == "apply" {
		err = call()
	}
	return err
}

// TestTagsInACheckpoint: while the word on a tag is being recorded it is the one
// that counts, also that there is none any more.
func TestTagsInACheckpoint(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, h := heldRig(t)
	o.tag("v1", image())
	ref := oci.Reference{Repository: o.repo("a").Repository, Tag: "v1"}
	for _, known := range []bool{true, false} {
		c.syncing.Lock() // no checkpoint so far
		if !known {
			c.dropTag(ref)
		} else if _, err := c.tagged(o, "v1", 0); err != nil {
			t.Fatal(err)
		}
		h.next("apply", nil)
		c.syncing.Unlock()
		var all sync.WaitGroup
		all.Go(func() { c.checkpoint() })
		<-h.at
		for _, when := range []string{"during", "after"} {
			c.tags.Purge()
			if _, ok := c.tag(ref); ok != known {
				t.Errorf("%s the checkpoint: %v, want %v", when, ok, known)
			}
			if when == "during" {
				close(h.end)
				all.Wait()
			}
		}
		c.checkpoint()
		c.mu.Lock()
		n := len(c.newTags) + len(c.goneTags)
		c.mu.Unlock()
		if n != 0 {
			t.Errorf("%d words wait for ever", n)
		}
	}
}

// TestTagReadWhileItGoes: what the index said before is not remembered after.
func TestTagReadWhileItGoes(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, h := heldRig(t)
	o.tag("v1", image())
	if _, err := c.tagged(o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	c.checkpoint()
	c.tags.Purge()
	ref := oci.Reference{Repository: o.repo("a").Repository, Tag: "v1"}
	h.next("tag", nil)
	var all sync.WaitGroup
	all.Go(func() { c.tag(ref) })
	<-h.at
	c.dropTag(ref)
	close(h.end)
	all.Wait()
	if _, ok := c.tag(ref); ok {
		t.Error("it is back")
	}
}

// TestGrantsOfAFullDisk: a checkpoint that finds no room loses no grant of what
// was evicted and has come back.
func TestGrantsOfAFullDisk(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	o.private = true
	c, h := heldRig(t)
	d := o.put(noise(mib, 95))
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	c.checkpoint()
	c.syncing.Lock()
	rec, _ := c.findStored(d)
	c.expel(recordsOf(rec))
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	h.next("apply", syscall.ENOSPC)
	c.syncing.Unlock()
	c.checkpoint()
	c.checkpoint()
	c.grants.Purge()
	if !c.granted(o.repo("a").Repository, d) {
		t.Error("the grant is lost")
	}
	c.mu.Lock()
	n := len(c.newGrant)
	c.mu.Unlock()
	if n != 0 {
		t.Errorf("%d grants wait for ever", n)
	}
}

// TestGrantBeforeItsManifest: a checkpoint that comes between the two.
func TestGrantBeforeItsManifest(t *testing.T) {
	t.Parallel()
	var c *rig
	var armed atomic.Bool
	c = onFaulty(t, Options{Dir: t.TempDir()}, func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "create" && strings.HasPrefix(op.Name, "fills/") && armed.CompareAndSwap(true, false) {
			c.checkpoint()
		}
		return nil
	})
	armed.Store(true)
	o := newOrigin()
	o.private = true
	d := o.tag("v1", image())
	if _, err := c.tagged(o, "v1", 0); err != nil || armed.Load() {
		t.Fatal("no checkpoint came between: ", err)
	}
	c.checkpoint()
	c.grants.Purge()
	if !c.granted(o.repo("a").Repository, d) {
		t.Error("the grant is lost")
	}
}

// TestHitsBesideGrants: a checkpoint that asks the index about grants, and waits
// for a page of it, holds no lock that a hit takes.
func TestHitsBesideGrants(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, h := heldRig(t)
	granted, hot := o.put(noise(mib, 96)), o.put(noise(1000, 97))
	c.want(o.repo("a"), granted, OutcomeMiss)
	c.want(o.repo("a"), hot, OutcomeMiss)
	c.idle()
	c.checkpoint()
	c.syncing.Lock()
	c.grant(o.repo("b").Repository, granted)
	h.next("get", nil)
	c.syncing.Unlock()
	var all sync.WaitGroup
	all.Go(func() { c.checkpoint() })
	<-h.at
	hit := make(chan struct{})
	all.Go(func() {
		defer close(hit)
		c.touch(hot, time.Now())
		c.want(o.repo("a"), hot, OutcomeHit)
	})
	select {
	case <-hit:
	case <-time.After(10 * time.Second):
		t.Error("a hit waits for the index")
	}
	close(h.end)
	all.Wait()
}
