package cache

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"cistern/internal/oci"
)

// The clock in a synctest bubble stands at the year 2000: a cache that is
// written outside and opened inside has a clock that was set back by decades,
// and the other way round.

// dated is a directory with a tag, its manifest and a layer, written now.
func dated(t *testing.T, o *origin) (dir string, layer oci.Digest) {
	t.Helper()
	layer = o.put(noise(3*mib, 90))
	o.tag("v1", o.image(layer))
	dir = t.TempDir()
	c := open(t, Options{Dir: dir})
	if _, err := c.tagged(o, "v1", time.Hour); err != nil {
		t.Fatal(err)
	}
	c.want(o.repo("a"), layer, OutcomeMiss)
	c.idle()
	c.close()
	return dir, layer
}

// believed opens a directory that was written under another clock. The tag is
// asked about once, and fresh after that; blobs are hits, and what is evicted is
// what must be.
func believed(t *testing.T, o *origin, dir string, layer oci.Digest) {
	t.Helper()
	c := open(t, Options{Dir: dir, Limit: 64 * mib})
	for range 3 {
		if m, err := c.tagged(o, "v1", time.Hour); err != nil || m.Outcome != OutcomeHit {
			t.Errorf("%+v, %v", m, err)
		}
	}
	if n := o.count("resolve"); n != 1 {
		t.Errorf("upstream was asked %d times about the tag", n)
	}
	c.want(o.repo("a"), layer, OutcomeHit)
	young := o.put(noise(3*mib, 91))
	c.want(o.repo("a"), young, OutcomeMiss)
	c.idle()
	c.checkpoint()
	c.want(o.repo("a"), young, OutcomeHit)
	if s := c.Stats(); s.EvictedBlobs != 0 {
		t.Errorf("%d blobs were evicted because of their age", s.EvictedBlobs)
	}
	c.close()
}

// TestClockSetBack is FAULTS row 46.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	dir, layer := dated(t, o)
	synctest.Test(t, func(t *testing.T) { believed(t, o, dir, layer) })
}

// TestClockSetOn is FAULTS row 46.
func TestClockSetOn(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	var dir string
	var layer oci.Digest
	parent := t
	synctest.Test(t, func(*testing.T) { dir, layer = dated(parent, o) })
	believed(t, o, dir, layer)
}

// TestClockSetBackAlone is FAULTS row 46 for a machine that comes up in the
// wrong year, where no certificate of upstream's is believed: what is cached is
// served, and says that it is stale.
func TestClockSetBackAlone(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	dir, layer := dated(t, o)
	o.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
	synctest.Test(t, func(t *testing.T) {
		c := open(t, Options{Dir: dir})
		for _, sick := range []bool{false, true} {
			o.sick = sick
			if m, err := c.tagged(o, "v1", time.Hour); err != nil || m.Outcome != OutcomeStale {
				t.Errorf("known to be down %v: %+v, %v", sick, m, err)
			}
		}
		c.want(o.repo("a"), layer, OutcomeHit)
		c.close()
	})
}
