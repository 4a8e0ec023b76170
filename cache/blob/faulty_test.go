package blob

import (
	"fmt"
	"slices"
	"syscall"
	"testing"

	"cistern/internal/durable/durabletest"
)

// story is a life of the store: four processes, fills of all endings, some gone
// on with, checkpoints, evictions under the eyes of readers, a lost record. It
// goes on after errors as the cache does.
func (w *world) story() {
	w.Helper()
	for _, process := range []func(){w.first, w.second, w.third, w.fourth} {
		started := w.start()
		if !started { // one fault at most
			started = w.start()
		}
		if !started {
			return
		}
		process()
	}
}

func (w *world) first() {
	w.fill(0, commit)
	w.fill(1, commit)
	w.fill(2, abort)
	w.fill(3, keep)
	w.checkpoint(3)
	w.readAll()
	w.removeContent(0)
	w.fill(0, keep)
	w.closeReaders()
	w.fill(3, commit)
	w.fill(4, commit)
	w.checkpoint(3)
	w.stop()
}

func (w *world) second() {
	w.readAll()
	w.fill(5, keep)
	w.fill(6, commit)
	w.checkpoint(2)
	w.fill(7, commit)
	w.removeContent(1)
	w.kill()
}

func (w *world) third() {
	w.readAll()
	w.fill(5, commit)
	w.fill(7, commit)
	w.fill(1, commit)
	w.checkpoint(3)
	w.lose(4)
	w.fill(8, keep)
	w.stop()
	w.boot++
}

func (w *world) fourth() {
	w.readAll()
	w.fill(8, commit)
	w.removeContent(5)
	w.checkpoint(1)
	w.stop()
}

func (w *world) readAll() {
	for _, d := range slices.Concat(sorted(w.index), sorted(w.fresh)) {
		w.read(d)
	}
	w.closeReadersBut(1)
}

func (w *world) removeContent(i int) {
	d, _ := truth(i)
	w.remove(d)
}

// failures are the ways in which an operation can fail.
func failures() (all []durabletest.Fault) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
		for _, done := range []bool{false, true} {
			all = append(all, durabletest.Fault{Err: fmt.Errorf("%w: %w", errInjected, errno), Done: done})
		}
	}
	return all
}

// everyOperation tells the story with the n-th operation failing, for every n
// from the first on, or every stride-th, until nothing fails any more.
func everyOperation(t *testing.T, fault durabletest.Fault, first, stride int, fresh func() volume) (runs int) {
	t.Helper()
	for n := first; ; n += stride {
		runs++
		f := &firstError{}
		w := newWorld(f, fresh())
		w.seam.Choose = func(op durabletest.Op) *durabletest.Fault {
			if op.N != n {
				return nil
			}
			w.faulted = true
			return &fault
		}
		w.story()
		w.wellAfter()
		_ = w.disk.Close() // closed already
		trace := w.seam.Trace()
		if f.text != "" {
			t.Fatalf("operation %d (%s) failing with %v, done %v: %s", n, trace[min(n, len(trace))-1], fault.Err, fault.Done, f.text)
		}
		if len(trace) < n {
			if n < 300 {
				t.Errorf("only %d operations: the story is not told", n)
			}
			return runs
		}
	}
}

// firstError keeps the first complaint; a run goes on behind it.
type firstError struct{ text string }

func (f *firstError) Helper() {}
func (f *firstError) Errorf(format string, args ...any) {
	if f.text == "" {
		f.text = fmt.Sprintf(format, args...)
	}
}
func (f *firstError) Fatalf(format string, args ...any) { f.Errorf(format, args...) }

// FAULTS rows 30 to 33, goal G3: the n-th operation fails, for every n until a
// run meets no failure, as an error and as an error of something that was done;
// under the race detector one of the six failures in turn.
func TestEveryOperationFailsOnce(t *testing.T) {
	t.Parallel()
	all := failures()
	stride := durabletest.OneIn(durabletest.Either(1, len(all)))
	for i, fault := range all {
		t.Run(fmt.Sprintf("%v, done %v", fault.Err, fault.Done), func(t *testing.T) {
			t.Parallel()
			runs := everyOperation(t, fault, 1+i%stride, stride, func() volume { return memory{durabletest.New(durabletest.Options{})} })
			t.Logf("%d runs", runs)
		})
	}
}

// The same on real files, for one kind of failure and some of the operations:
// the twin does what they do.
func TestEveryOperationFailsOnceOnRealFiles(t *testing.T) {
	t.Parallel()
	fault := durabletest.Fault{Err: fmt.Errorf("%w: %w", errInjected, syscall.EIO)}
	runs := everyOperation(t, fault, 1, 11, func() volume { return newReal(t, t.TempDir()) })
	t.Logf("%d runs", runs)
}
