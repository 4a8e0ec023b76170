package cache

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// faultyRig is a cache on a file system in memory of which operations fail.
// choose may be exchanged while nothing runs.
func faultyRig(t *testing.T, o Options, choose func(durabletest.Op) *durabletest.Fault) *rig {
	t.Helper()
	o.fs = &durabletest.Faulty{FS: durabletest.New(durabletest.Options{}), Choose: choose}
	o.indexDir, o.index.NoSync = t.TempDir(), true
	o.Dir = "memory"
	return open(t, o)
}

// stalling has the n-th operation of a kind on a fill wait for release.
type stalling struct {
	mu      sync.Mutex
	kind    string
	n       int
	release chan struct{}
}

func (s *stalling) choose(op durabletest.Op) *durabletest.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op.Kind != s.kind || !strings.HasPrefix(op.Name, "fills/") {
		return nil
	}
	if s.n--; s.n != 0 {
		return nil
	}
	return &durabletest.Fault{Stall: s.release}
}

// TestDiskStalls: readers of a fill that the disk does not come back from go on
// by streams of their own, hits of other blobs are served, new fills go past
// the disk until it is back, and then are kept again. FAULTS row 38.
func TestDiskStalls(t *testing.T) {
	t.Parallel()
	for _, s := range []*stalling{
		{kind: "create", n: 1}, {kind: "write", n: 1}, {kind: "write", n: 3}, {kind: "write", n: 9},
	} {
		t.Run(s.kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := s.n
				s.n, s.release = 0, make(chan struct{})
				o, c := newOrigin(), faultyRig(t, Options{}, s.choose)
				old := o.put(noise(2*mib, 50))
				c.want(o.repo("a"), old, OutcomeMiss)
				c.idle()
				c.checkpoint()
				s.mu.Lock()
				s.n = n
				s.mu.Unlock()
				d := o.put(noise(3*mib, 51))
				got, _, err := c.get(o.repo("a"), d)
				if err != nil || oci.FromBytes(got) != d {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				c.want(o.repo("a"), old, OutcomeHit)
				c.want(o.repo("a"), o.put(noise(2*mib, 52)), OutcomePass)
				if st := c.Stats(); st.Stalled != 1 || st.Degraded == "" {
					t.Errorf("%d stalls, degraded %q", st.Stalled, st.Degraded)
				}
				close(s.release)
				c.idle()
				kept := o.put(noise(2*mib, 53))
				c.want(o.repo("a"), kept, OutcomeMiss)
				c.idle()
				c.want(o.repo("a"), kept, OutcomeHit)
				if st := c.Stats(); st.Degraded != "" {
					t.Error(st.Degraded)
				}
				c.close()
			})
		})
	}
}

// TestDiskStallsUnderAManifest: whoever asked for it has it.
func TestDiskStallsUnderAManifest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stalling{kind: "write", n: 1, release: make(chan struct{})}
		o, c := newOrigin(), faultyRig(t, Options{}, s.choose)
		m := o.tag("v1", o.image())
		if got, err := c.tagged(o, "v1", 1<<40); err != nil || got.Digest != m {
			t.Errorf("%v", err)
		}
		if c.Stats().Stalled != 1 {
			t.Error("nothing stalled")
		}
		close(s.release)
		synctest.Wait()
		c.close()
	})
}

// TestFsyncStalls: nobody waits for a checkpoint: neither hits nor fills nor an
// eviction.
func TestFsyncStalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stalling{kind: "fsync", n: 1, release: make(chan struct{})}
		o, c := newOrigin(), faultyRig(t, Options{Limit: 16 * mib}, s.choose)
		first := o.put(noise(2*mib, 54))
		c.want(o.repo("a"), first, OutcomeMiss)
		c.idle()
		go c.checkpoint()
		synctest.Wait()
		if s.n > 0 {
			t.Fatal("nothing stalls")
		}
		var last oci.Digest
		for i := range uint64(12) { // more than fits
			last = o.put(noise(2*mib, 60+i))
			c.want(o.repo("a"), last, OutcomeMiss)
			c.idle()
			c.want(o.repo("a"), last, OutcomeHit)
		}
		if st := c.Stats(); st.Checkpoints != 0 || st.EvictedBlobs == 0 || st.Unbacked != 0 {
			t.Errorf("%+v", st)
		}
		close(s.release)
		c.checkpoint()
		c.want(o.repo("a"), last, OutcomeHit)
		c.close()
	})
}

// TestReadOfALeftoverStalls: who waits for what an earlier fill left, of which
// the disk gives no more, goes past the disk, whether they follow the reading or
// wait for its end; others are served, and what lies there is used when the disk
// is back. FAULTS row 38.
func TestReadOfALeftoverStalls(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		name  string
		known bool // the index has a record of it
		n     int  // which read stalls
	}{{"a part", false, 1}, {"more of it", false, 3}, {"a whole blob", true, 1}} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				st := &stalling{kind: "readat", release: make(chan struct{})}
				o, c := newOrigin(), faultyRig(t, Options{}, st.choose)
				other := o.put(noise(2*mib, 70))
				c.want(o.repo("a"), other, OutcomeMiss)
				data := noise(2*mib, 71)
				d := o.put(data)
				if s.known {
					c.want(o.repo("a"), d, OutcomeMiss)
					c.idle()
					c.checkpoint()
					c.doubt(d)
				} else {
					o.blob = func(_ int, _ oci.Digest, off, _ int64) (*Body, error) {
						return body(2*mib, off, step{data: data[off:mib]}, step{err: oci.ErrDenied})
					}
					_, _, _ = c.get(o.repo("a"), d)
					c.idle()
					c.negative.Purge()
					o.blob = nil
				}
				c.checkpoint()
				st.mu.Lock()
				st.n = s.n
				st.mu.Unlock()
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						if got, _, err := c.get(o.repo("a"), d); err != nil || oci.FromBytes(got) != d {
							t.Errorf("%d bytes, %v", len(got), err)
						}
					})
				}
				began := time.Now()
				release := sync.OnceFunc(func() { close(st.release) })
				time.AfterFunc(time.Hour, release) // none waits for ever
				wg.Wait()
				if waited := time.Since(began); waited != stallAfter {
					t.Errorf("they waited for %v", waited)
				}
				c.want(o.repo("a"), d, OutcomePass)
				c.want(o.repo("a"), other, OutcomeHit)
				c.want(o.repo("a"), o.put(noise(2*mib, 72)), OutcomePass)
				if n := c.Stats().Stalled; n != 1 {
					t.Errorf("%d stalls", n)
				}
				release()
				c.idle()
				synctest.Wait()
				asked := o.count("blob")
				got, _, err := c.get(o.repo("a"), d)
				if err != nil || oci.FromBytes(got) != d || s.known && o.count("blob") != asked {
					t.Errorf("when it is back: %d bytes, %v, %d requests", len(got), err, o.count("blob")-asked)
				}
				c.idle()
				c.want(o.repo("a"), d, OutcomeHit)
				c.close()
			})
		})
	}
}

// TestIndexReadStalls: a page of the index that does not come holds up who asks
// for that blob, and neither hits nor fills of others.
func TestIndexReadStalls(t *testing.T) {
	t.Parallel()
	var left atomic.Int32 // gets until the one that stalls
	stalls, release := make(chan struct{}), make(chan struct{})
	options := Options{}
	options.index.Hook = func(op string, call func() error) error {
		if op == "get" && left.Load() > 0 && left.Add(-1) == 0 {
			close(stalls)
			<-release
		}
		return call()
	}
	for _, n := range []int32{1, 2} { // the look before a fill, and that within it
		stalls, release = make(chan struct{}), make(chan struct{})
		o, c := newOrigin(), faultyRig(t, options, func(durabletest.Op) *durabletest.Fault { return nil })
		released := sync.OnceFunc(func() { close(release) })
		t.Cleanup(released)
		large, small := o.put(noise(2*mib, 73)), o.put(noise(100, 74))
		for _, d := range []oci.Digest{large, small} {
			c.want(o.repo("a"), d, OutcomeMiss)
		}
		c.idle()
		c.checkpoint()
		var wg sync.WaitGroup
		cold := o.put(noise(2*mib, 75))
		left.Store(n)
		wg.Go(func() { c.want(o.repo("a"), cold, OutcomeMiss) })
		<-stalls
		others := make(chan struct{})
		wg.Go(func() {
			defer close(others)
			c.want(o.repo("a"), large, OutcomeHit)
			c.want(o.repo("a"), small, OutcomeHit)
			c.want(o.repo("a"), o.put(noise(2*mib, 76)), OutcomeMiss)
			c.want(o.repo("a"), o.put(noise(200, 77)), OutcomeMiss)
			c.Stats()
		})
		until(t, "others are served", func() bool {
			select {
			case <-others:
				return true
			default:
				return false
			}
		})
		released()
		wg.Wait()
		c.idle()
		c.close()
	}
}
