package cache

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// TestChangedWhileRead: a small object that gets another label, or is removed,
// while somebody reads its file is not kept in memory as it was.
func TestChangedWhileRead(t *testing.T) {
	t.Parallel()
	var during atomic.Pointer[func()]
	o, c := newOrigin(), faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
		if op.Kind != "read" || !strings.HasPrefix(op.Name, "blobs/") && !strings.HasPrefix(op.Name, "fills/") {
			return nil
		}
		if run := during.Swap(nil); run != nil {
			return &durabletest.Fault{After: *run}
		}
		return nil
	})
	text := o.image()
	d := o.tag("v1", text)
	o.put([]byte(text))
	ref := oci.Reference{Repository: o.repo("a").Repository, Digest: d}
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	read := func(meanwhile func()) {
		c.hot.remove(d)
		during.Store(&meanwhile)
		c.small(d, maxHot)
		if during.Load() != nil {
			t.Fatal("it was not read")
		}
	}
	read(func() { // it turns out to be a manifest
		if _, err := c.Manifest(t.Context(), o.repo("a"), ref); err != nil {
			t.Error(err)
		}
	})
	if rec, ok := c.find(d); !ok || rec.Class != index.ClassManifest {
		t.Errorf("here: %v, as %v", ok, rec.Class)
	}
	o.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
	if m, err := c.Manifest(t.Context(), o.repo("a"), ref); err != nil || m.Outcome != OutcomeHit {
		t.Errorf("the manifest, without upstream: %v", err)
	}
	read(func() {
		rec, _ := c.findStored(d)
		if _, ok := c.drop(rec, index.Removed); !ok {
			t.Error("it was not removed")
		}
	})
	if _, here := c.find(d); here {
		t.Error("it was removed, and is in memory")
	}
}
