package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"cistern/internal/durable/durabletest"
)

// storyLimit has the contents of the story, of which there are some more than
// fit, evict each other.
const storyLimit = 2600 << 10

// story is the life of a cache in five processes: fills of all kinds, a
// checkpoint, hits, evictions, fetches of what was evicted, fills that break
// off, readers of what is evicted, a tag that is removed, a kill, and an index
// that is lost.
func (w *world) story() {
	lib := library()
	for i, process := range []func(){
		func() {
			w.pullAll(0, 1, 2, 3, 4, 5, 6, 7, 12, 14)
			w.checkpoint()
			w.pullAll(2, 3, 5, 12)
			w.begin(lib[3])
			w.pullAll(8, 9, 10, 11) // more than fits
			w.checkpoint()
			w.pullAll(4)
			w.readOn(0)
		},
		func() {
			w.pullAll(9, 12, 14)
			w.pullPart(lib[10])
			w.ask(lib[5])
			w.pullAll(0, 5)
			w.asBlob(lib[13])
			w.checkpoint()
			w.pullAll(13)
			w.pullAll(3, 8)
			w.kill()
		},
		func() {
			w.ask(lib[7])
			w.pullAll(3, 10, 8)
			w.begin(lib[8])
			w.remove(lib[12])
			w.pullAll(1, 12)
			w.checkpoint()
		},
		func() { // its index was lost
			w.pullAll(12, 8, 5, 11, 1)
			w.checkpoint()
		},
		func() { w.pullAll(2, 9) },
	} {
		process()
		w.stop()
		if w.cut {
			return
		}
		if i == 2 {
			w.loseIndex()
		}
		w.next(nil)
		w.settle()
	}
}

func (w *world) pullAll(contents ...int) {
	for _, i := range contents {
		if !w.cut {
			w.pull(library()[i])
			w.settle()
		}
	}
}

func (w *world) checkpoint() {
	if w.c.store != nil && !w.cut {
		w.c.checkpoint()
	}
	w.settle()
}

// asBlob pulls a manifest as if it were a blob.
func (w *world) asBlob(k work) {
	if w.cut {
		return
	}
	was := k.manifest
	k.manifest = false
	got, err := w.fetch(w.repo(k), k)
	if err != nil && !w.cut && !errors.Is(err, errDamaged) && !(was && errors.Is(err, errIsManifest)) {
		w.Errorf("pulling content %d as a blob: %d bytes, %v", k.i, len(got), err)
	}
	w.settle()
}

// remove removes an image as an operator does.
func (w *world) remove(k work) {
	if w.cut {
		return
	}
	_, err := w.c.Remove(w.ref(k))
	if err != nil && !w.faulted && !w.cut {
		w.Errorf("removing %s: %v", w.ref(k), err)
	}
	w.settle()
}

// loseIndex has the next process find none.
func (w *world) loseIndex() {
	if err := os.Remove(filepath.Join(w.index.dir, indexName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Errorf("losing the index: %v", err)
	}
}

var errInjected = errors.New("injected")

// failures are the ways in which an operation of a disk can fail.
func failures() (all []durabletest.Fault) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
		for _, done := range []bool{false, true} {
			all = append(all, durabletest.Fault{Err: fmt.Errorf("%w: %w", errInjected, errno), Done: done})
		}
	}
	return all
}

// kinds are the operations on a disk, and on files.
var kinds = []string{
	"open", "create", "mkdir", "rename", "remove", "lstat", "readdir", "syncdir", "syncall", "lock", "free",
	"read", "readat", "write", "seek", "stat", "truncate", "fsync", "close",
}

// after is the operation to look at after the n-th: the next one, and where that
// would be too many for each run of the tests, one in so many, or in four times
// as many under the race detector. FAULT_TIMES makes it denser, up to all.
func after(n, oneIn int) int {
	if n < durabletest.Either(10, 1) {
		return n + 1
	}
	return n + durabletest.OneIn(durabletest.Either(1, 4)*oneIn)
}

// eachFails has the n-th call of each kind fail, for one n after the other until
// a run meets no failure. In turn one of all failures; FAULT_TIMES is how many.
func eachFails(t *testing.T, kinds []string, all []durabletest.Fault, oneIn int, fails func(t *testing.T, kind string, n int, fault durabletest.Fault) bool) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for turn := range min(durabletest.Times(1), len(all)) {
				runs := 0
				for n := 1; fails(t, kind, n, all[(runs+turn)%len(all)]); n = after(n, oneIn) {
					runs++
				}
				t.Logf("%d runs", runs)
			}
		})
	}
}

// FAULTS rows 30 to 34, goal G3: of each kind of operation the n-th fails, as an
// error and as an error of what was done. No pull fails for it, and what is left
// is right.
func TestEveryOperationFailsOnce(t *testing.T) {
	t.Parallel()
	eachFails(t, kinds, failures(), 6, failsOnce)
}

// failsOnce tells the story with the n-th operation of a kind failing, and tells
// whether there was one.
func failsOnce(t *testing.T, kind string, n int, fault durabletest.Fault) bool {
	t.Helper()
	count, hit := 0, durabletest.Op{}
	text := inBubble(t, storyLimit, func(w *world) {
		w.next(nil)
		w.faultAt(func(op durabletest.Op) *durabletest.Fault {
			if op.Kind != kind {
				return nil
			}
			if count++; count != n {
				return nil
			}
			hit, w.faulted = op, true
			return &fault
		})
		w.story()
		w.faultAt(nil)
		w.next(nil)
		w.well()
	})
	if text != "" {
		t.Errorf("%s failing with %v, done %v: %s", hit, fault.Err, fault.Done, text)
	}
	return count >= n
}

// indexFailures are the ways in which a call into the index can fail: as on a
// full disk, undone or done all the same, and as a damaged file makes it fail.
func indexFailures() []durabletest.Fault {
	full := fmt.Errorf("%w: %w", errInjected, syscall.ENOSPC)
	return []durabletest.Fault{{Err: full}, {Err: full, Done: true}, {Panic: "injected"}, {Panic: "injected", Done: true}}
}

// The same for the calls into the index: goal G3, row 44.
func TestEveryIndexCallFailsOnce(t *testing.T) {
	t.Parallel()
	calls := []string{"open", "read", "create", "get", "tag", "tags", "grant", "victims", "apply"}
	eachFails(t, calls, indexFailures(), 12, indexFailsOnce)
}

func indexFailsOnce(t *testing.T, kind string, n int, fault durabletest.Fault) bool {
	t.Helper()
	count := 0
	text := inBubble(t, storyLimit, func(w *world) {
		w.next(nil)
		w.index.faultAt(func(op string) *durabletest.Fault {
			if op != kind {
				return nil
			}
			if count++; count != n {
				return nil
			}
			w.fails()
			return &fault
		})
		w.story()
		w.index.faultAt(nil)
		w.next(nil)
		w.well()
	})
	if text != "" {
		t.Errorf("%s %d failing with %v, panic %v, done %v: %s", kind, n, fault.Err, fault.Panic, fault.Done, text)
	}
	return count >= n
}

// fails notes that something failed in this process.
func (w *world) fails() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faulted = true
}
