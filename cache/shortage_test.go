package cache

import (
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// TestNoDescriptors: that no file can be opened at the moment is no reason to
// remove any. FAULTS row 17.
func TestNoDescriptors(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o, c := newOrigin(), open(t, Options{})
			ds := []oci.Digest{o.put(noise(3*mib, 200)), o.put(noise(40<<10, 201)), o.put(noise(100, 202))}
			for _, d := range ds {
				c.want(o.repo("a"), d, OutcomeMiss)
			}
			c.idle()
			c.close()
			if lost {
				if err := os.Remove(c.o.indexPath()); err != nil {
					t.Fatal(err)
				}
			}
			var few atomic.Bool
			few.Store(true)
			next := onFaulty(t, Options{Dir: c.o.Dir}, func(op durabletest.Op) *durabletest.Fault {
				if op.Kind == "open" && strings.HasPrefix(op.Name, "blobs/") && few.Load() {
					return &durabletest.Fault{Err: syscall.EMFILE}
				}
				return nil
			})
			synctest.Wait()
			for _, d := range ds {
				if !lost {
					_, _, _ = next.get(o.repo("a"), d) // whatever comes of it
				}
			}
			few.Store(false)
			if lost {
				<-time.After(proveAgain)
				synctest.Wait()
			}
			for _, d := range ds {
				next.want(o.repo("a"), d, OutcomeHit)
			}
			if n := o.count("blob") - len(ds); n != 0 {
				t.Errorf("%d of them were gone", n)
			}
			next.account()
			if next.rebuild.on.Load() {
				t.Error("some are not recorded yet")
			}
			next.close()
		})
	}
}

// TestDiskStallsUnderSmallBlobs: who asked has them; what is to be kept does not
// gather in memory behind a disk that does not come back. FAULTS row 38.
func TestDiskStallsUnderSmallBlobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		o, c := newOrigin(), faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
			if op.Kind == "create" && strings.HasPrefix(op.Name, "fills/") {
				return &durabletest.Fault{Stall: release}
			}
			return nil
		})
		c.want(o.repo("a"), o.put(noise(64<<10, 210)), OutcomeMiss)
		<-time.After(stallAfter)
		synctest.Wait()
		if s := c.Stats(); s.Stalled != 1 || s.Degraded == "" {
			t.Errorf("%d stalls, degraded %q", s.Stalled, s.Degraded)
		}
		for i := range uint64(20) {
			c.want(o.repo("a"), o.put(noise(64<<10, 211+i)), OutcomeMiss)
		}
		synctest.Wait()
		if n := len(c.flights.All()); n != 1 {
			t.Errorf("%d fills wait for the disk", n)
		}
		close(release)
		synctest.Wait()
		kept := o.put(noise(64<<10, 240))
		c.want(o.repo("a"), kept, OutcomeMiss)
		synctest.Wait()
		if _, ok := c.findStored(kept); !ok {
			t.Error("nothing is kept any more")
		}
		c.close()
	})
}
