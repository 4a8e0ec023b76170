package cache

import (
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// TestScrub: once nobody is served, all blobs are hashed at the rate that is set; a week
// later again. What is damaged is set aside and logged, and where it was wrong once it is
// here again.
func TestScrub(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		o, c := newOrigin(), open(t, Options{Limit: 1 << 30, ScrubRate: mib, Log: zap.New(core)})
		layers, _ := kept(t, c, o)
		hashed := func() float64 { return float64(c.Stats().Scrub.Bytes) / mib }
		for range 20 { // somebody is served all the time
			time.Sleep(time.Second)
			c.want(o.repo("library/app"), layers[1], OutcomeHit)
		}
		if hashed() > 0 {
			t.Errorf("%.1f MiB were hashed while somebody was served", hashed())
		}
		time.Sleep(scrubQuiet + 2*time.Second)
		if n := hashed(); n < 0.5 || n > 3.1 || !c.Stats().Scrub.Running {
			t.Errorf("%.1f MiB were hashed, %+v", n, c.Stats().Scrub)
		}
		time.Sleep(time.Minute)
		if s := c.Stats().Scrub; s.Running || s.Ended.IsZero() || hashed() < 3.2 || hashed() > 3.5 {
			t.Errorf("after a minute %.1f MiB, %+v", hashed(), s)
		}
		flip(t, c.fileOf(layers[0]), mib)
		began := func(ago time.Duration) { // a checkpoint each second of a week would take its time
			c.scrubbed.mu.Lock()
			defer c.scrubbed.mu.Unlock()
			at := &c.scrubbed.at
			at.Began, at.Ended = at.Began.Add(-ago), at.Ended.Add(-ago)
		}
		began(6 * 24 * time.Hour)
		time.Sleep(time.Hour)
		if hashed() > 3.5 || c.Stats().Damaged != 0 {
			t.Errorf("six days later %.1f MiB, %d damaged", hashed(), c.Stats().Damaged)
		}
		began(24 * time.Hour)
		time.Sleep(time.Hour)
		if hashed() < 6 || c.Stats().Damaged != 1 {
			t.Errorf("eight days later %.1f MiB, %d damaged", hashed(), c.Stats().Damaged)
		}
		if l := logs.FilterMessageSnippet("is damaged").All(); len(l) != 1 || l[0].ContextMap()["digest"] != layers[0].String() {
			t.Errorf("%+v", l)
		}
		if _, err := os.Stat(c.asideOf(layers[0])); err != nil {
			t.Error(err)
		}
		c.want(o.repo("library/app"), layers[0], OutcomeMiss)
		time.Sleep(time.Minute)
		if l := logs.FilterMessageSnippet("tells what was wrong").All(); len(l) != 1 || l[0].ContextMap()["first_bad_offset"] != int64(mib) {
			t.Errorf("%+v", l)
		}
		c.close()
	})
}

// TestScrubGoesOn: a restart goes on where the process before has stopped.
func TestScrubGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, c := newOrigin(), open(t, Options{ScrubRate: 100 << 10})
		kept(t, c, o)
		time.Sleep(2 * scrubQuiet)
		for c.Stats().Scrub.Done == 0 {
			time.Sleep(time.Second)
		}
		c.close()
		first := c.Stats().Scrub
		if !first.Running {
			t.Fatalf("%+v", first)
		}
		c = open(t, Options{Dir: c.o.Dir, ScrubRate: 100 << 10})
		time.Sleep(10 * time.Minute)
		s := c.Stats().Scrub
		const least = 3*mib + 300<<10 + 4000 // and a manifest
		if s.Running || s.Ended.IsZero() || s.Bytes >= least || first.Bytes+s.Bytes < least {
			t.Errorf("%+v, and before %+v", s, first)
		}
		c.close()
	})
}

// TestScrubRests: of a disk that gives nothing nothing is dropped, nor is it said that all
// was hashed; it is left alone for a while, and then all is read.
func TestScrubRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var dead atomic.Bool
		var reads atomic.Int32
		core, logs := observer.New(zap.InfoLevel)
		c := faultyRig(t, Options{ScrubRate: mib, Log: zap.New(core)}, func(op durabletest.Op) *durabletest.Fault {
			if op.Kind != "readat" || !strings.HasPrefix(op.Name, "blobs/") {
				return nil
			}
			reads.Add(1)
			if dead.Load() {
				return &durabletest.Fault{Err: syscall.EIO}
			}
			return nil
		})
		dead.Store(true)
		stock(t, c, newOrigin(), mostUnreadable+4)
		before := c.Stats().Blobs
		time.Sleep(10 * time.Minute)
		first := reads.Load()
		s := c.Stats()
		if s.Blobs != before || s.Damaged > 0 || s.Scrub.Done != 0 || !s.Scrub.Running || s.Scrub.Bytes > 0 || first < mostUnreadable {
			t.Errorf("%d blobs of %d, %d reads, %+v", s.Blobs, before, first, s.Scrub)
		}
		time.Sleep(scrubRest / 2)
		if n := reads.Load(); n != first {
			t.Errorf("it is not left alone: %d more reads", n-first)
		}
		dead.Store(false)
		time.Sleep(scrubRest)
		if s := c.Stats(); s.Blobs != before || s.Damaged > 0 || s.Scrub.Running || s.Scrub.Bytes < (mostUnreadable+4)*2000 {
			t.Errorf("once it is back: %d blobs of %d, %+v", s.Blobs, before, s.Scrub)
		}
		if n := logs.FilterMessageSnippet("could not look at all").Len(); n != 1 {
			t.Errorf("it is told %d times", n)
		}
		c.close()
	})
}

// TestScrubStumbles: what makes it panic is told, and neither counts as hashed nor keeps
// it from what comes behind.
func TestScrubStumbles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var bad atomic.Pointer[string]
		core, logs := observer.New(zap.InfoLevel)
		c := faultyRig(t, Options{ScrubRate: mib, Log: zap.New(core)}, func(op durabletest.Op) *durabletest.Fault {
			if p := bad.Load(); p != nil && op.Kind == "readat" && strings.HasSuffix(op.Name, *p) {
				panic("injected")
			}
			return nil
		})
		ds := stock(t, c, newOrigin(), 10)
		slices.SortFunc(ds, func(a, b oci.Digest) int { return strings.Compare(a.Hex(), b.Hex()) })
		hex := ds[3].Hex()
		bad.Store(&hex)
		time.Sleep(10 * time.Minute)
		if s := c.Stats(); s.Scrub.Bytes != 9*2000 || !s.Scrub.Running || s.Damaged > 0 || c.Cache.scrubbed.at.Last != ds[2] {
			t.Errorf("%+v, %d damaged", s.Scrub, s.Damaged)
		}
		if n := logs.FilterMessageSnippet("could not look at all").Len(); n != 1 {
			t.Errorf("it is told %d times", n)
		}
		c.close()
	})
}

// TestQuietAfterClock: a clock that was set back does not keep it from work until it has
// come to where it was.
func TestQuietAfterClock(t *testing.T) {
	t.Parallel()
	c := open(t, Options{})
	for ago, want := range map[time.Duration]bool{-time.Hour: false, time.Second: true, time.Hour: false} {
		c.scrubbed.used.Store(time.Now().Add(-ago).Unix())
		if got := c.active(); got != want {
			t.Errorf("asked %s ago: active %v", ago, got)
		}
	}
}
