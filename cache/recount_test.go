package cache

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cistern/internal/durable"
	"cistern/internal/durable/durabletest"
)

// onFaulty opens a cache on real files of which operations fail.
func onFaulty(t *testing.T, o Options, choose func(durabletest.Op) *durabletest.Fault) *rig {
	t.Helper()
	dir, err := durable.OpenDir(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	o.fs = &durabletest.Faulty{FS: dir, Choose: choose}
	return open(t, o)
}

// TestCountingFails: as long as nobody knows how much lies in the directory
// nothing is added to it, also where the counting fails; it is tried again.
func TestCountingFails(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"readdir", "panic"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o, c := newOrigin(), open(t, Options{})
				for i := range 8 {
					c.want(o.repo("a"), o.put(noise(2*mib, uint64(150+i))), OutcomeMiss)
				}
				c.idle()
				c.close()
				if err := os.Remove(c.o.indexPath()); err != nil {
					t.Fatal(err)
				}
				var sick atomic.Bool
				sick.Store(true)
				next := onFaulty(t, Options{Dir: c.o.Dir, Limit: 24 * mib}, func(op durabletest.Op) *durabletest.Fault {
					if op.Kind != "readdir" || !sick.Load() || len(strings.Split(op.Name, "/")) != 3 || !strings.HasPrefix(op.Name, "blobs/") {
						return nil
					}
					if kind == "panic" {
						return &durabletest.Fault{Panic: "injected"}
					}
					return &durabletest.Fault{Err: syscall.EIO}
				})
				synctest.Wait()
				for i := range 8 {
					d := o.put(noise(2*mib, uint64(160+i)))
					next.want(o.repo("a"), d, OutcomePass)
					next.idle()
				}
				sick.Store(false)
				<-time.After(proveAgain)
				synctest.Wait()
				next.rebuilt()
				next.want(o.repo("a"), o.put(noise(2*mib, 170)), OutcomeMiss)
				next.idle()
				next.account()
				if _, disk := next.taken(); disk > 24*mib {
					t.Errorf("%d bytes lie on disk", disk)
				}
				if left, err := filepath.Glob(filepath.Join(c.o.Dir, "rebuild")); err != nil || len(left) > 0 {
					t.Error("the mark is there still")
				}
				next.close()
			})
		})
	}
}
