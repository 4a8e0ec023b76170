package cache

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// TestRenewalFails: an index breaks, and there is no room for a new one at the
// first try. What can be read of the old one is not lost with that, and the
// account knows of it.
func TestRenewalFails(t *testing.T) {
	t.Parallel()
	var breaks, full atomic.Bool
	c := open(t, Options{index: index.Options{Hook: func(op string, call func() error) error {
		switch {
		case op == "get" && breaks.CompareAndSwap(true, false):
			panic("injected")
		case op == "open" && full.CompareAndSwap(true, false):
			return errors.Join(call(), syscall.ENOSPC)
		}
		return call()
	}}})
	o := newOrigin()
	d := o.tag("v1", o.image())
	if _, err := c.tagged(o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	blob := o.put(noise(mib, 98))
	c.want(o.repo("a"), blob, OutcomeMiss)
	c.idle()
	c.checkpoint()
	others := func() int64 { // than the index, and one put aside
		c.syncing.Lock()
		defer c.syncing.Unlock()
		return c.store.Usage().Used - c.idx.Load().Footprint() - c.o.asideBytes()
	}
	used, before := c.store.Usage().Used, others()
	full.Store(true)
	breaks.Store(true)
	c.findStored(blob)
	c.checkpoint()
	if full.Load() || c.idx.Load().Broken() == nil {
		t.Fatal("nothing was tried")
	}
	if now := c.store.Usage().Used; now != used { // the old one has another name
		t.Errorf("it was put aside, and counts %d bytes more", now-used)
	}
	c.syncing.Lock()
	c.renewed = time.Time{}
	c.syncing.Unlock()
	c.checkpoint()
	c.rebuilt()
	c.tags.Purge()
	if tag, ok := c.tag(oci.Reference{Repository: o.repo("a").Repository, Tag: "v1"}); !ok || tag.Target.Digest != d {
		t.Errorf("the tag: %+v, %v", tag, ok)
	}
	c.want(o.repo("a"), blob, OutcomeHit)
	if now := others(); now != before {
		t.Errorf("with a new one, %d bytes are counted that were not", now-before)
	}
	c.account()
}
