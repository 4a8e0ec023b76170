package cache

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
)

// TestGoneWhileCounted: what is proven while the files without a record are
// counted, and is gone before the count comes to it, or after that, is neither
// counted nor given back without having been counted. One that cannot be
// removed is counted once.
func TestGoneWhileCounted(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		name         string
		met, refused bool
	}{
		{"not met yet", false, false},
		{"met", true, false},
		{"not met yet, and cannot be removed", false, true},
		{"met, and cannot be removed", true, true},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			stored := slices.Clone(library()[:7]) // in the order in which the count comes to them
			slices.SortFunc(stored, func(a, b work) int { return strings.Compare(a.d.Hex(), b.d.Hex()) })
			gone, last := stored[0], stored[len(stored)-1]
			if !s.met {
				gone = last
			}
			text := inBubble(t, 64*mib, func(w *world) {
				w.next(nil)
				for _, k := range stored {
					w.pull(k)
					w.settle()
				}
				w.stop()
				w.loseIndex()
				stands, refuses := make(chan struct{}), false
				w.faultAt(func(op durabletest.Op) *durabletest.Fault {
					switch {
					case op.Kind == "readdir" && op.Name == "blobs/sha256/"+last.d.Hex()[:2]:
						return &durabletest.Fault{Stall: stands}
					case op.Kind == "remove" && refuses && strings.HasSuffix(op.Name, gone.d.Hex()):
						w.faulted = true
						return &durabletest.Fault{Err: syscall.EIO}
					}
					return nil
				})
				w.next(nil)
				synctest.Wait()
				w.pull(gone)
				rec, ok := w.c.findStored(gone.d)
				if !ok || !w.c.rebuild.counting.Load() {
					w.Errorf("void: proven %v, counting %v", ok, w.c.rebuild.counting.Load())
				}
				if len(w.c.freshVictims(1<<40)) > 0 || !w.c.passOver(gone.d) {
					w.Errorf("it may be evicted, and the counting would begin anew")
				}
				w.mu.Lock()
				refuses = s.refused
				w.mu.Unlock()
				if _, ok := w.c.drop(rec, index.Removed); ok == s.refused {
					w.Errorf("removed: %v", ok)
				}
				w.mu.Lock()
				refuses, w.faulted = false, false
				w.mu.Unlock()
				close(stands)
				w.settle()
				if !w.c.keeping() {
					w.Errorf("it keeps nothing")
				}
				w.counted()
				w.well()
			})
			if text != "" {
				t.Error(text)
			}
		})
	}
}

// TestLeftUnproven: a file that is not the blob, and does not go, is neither
// recorded nor forgotten: the next process tries again. Nobody waits for it.
func TestLeftUnproven(t *testing.T) {
	t.Parallel()
	text := inBubble(t, 64*mib, func(w *world) {
		bad := library()[1]
		w.next(nil)
		w.pullAll(0, 1, 2, 3)
		w.stop()
		w.loseIndex()
		w.disk = w.disk.Kill()
		f, err := w.disk.OpenFile("blobs/sha256/"+bad.d.Hex()[:2]+"/"+bad.d.Hex(), syscall.O_RDWR, 0)
		if err == nil {
			_, err = f.Write(bytes.Repeat([]byte{1}, 100))
			f.Close()
		}
		if err != nil {
			w.Errorf("damaging it: %v", err)
		}
		var refused atomic.Int32
		w.faultAt(func(op durabletest.Op) *durabletest.Fault {
			if op.Kind != "remove" && op.Kind != "rename" || !strings.HasSuffix(op.Name, bad.d.Hex()) {
				return nil
			}
			refused.Add(1)
			return &durabletest.Fault{Err: syscall.EIO}
		})
		w.next(nil)
		pass(proveAgain)
		if refused.Load() == 0 || w.c.rebuild.on.Load() || !w.c.store.Unproven() {
			w.Errorf("it was tried %d times, and is forgotten or waited for: on %v, marked %v", refused.Load(), w.c.rebuild.on.Load(), w.c.store.Unproven())
		}
		if _, ok := w.c.findStored(bad.d); ok {
			w.Errorf("it is recorded")
		}
		w.counted()
		w.faultAt(nil)
		w.stop()
		w.next(nil)
		w.settle()
		if _, lies := w.c.store.Lying(bad.d); lies || w.c.store.Unproven() {
			w.Errorf("it lies there: %v, marked: %v", lies, w.c.store.Unproven())
		}
		w.counted()
	})
	if text != "" {
		t.Error(text)
	}
}

// pass lets time pass, and what is to be done be done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
