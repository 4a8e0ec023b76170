package blob

import (
	"testing"

	"cistern/internal/durable/durabletest"
)

// outcomesEach is how many outcomes of each power cut are looked at.
const outcomesEach = 3

// everyNth is after how many operations there is a cut or a kill.
func everyNth() int { return durabletest.OneIn(durabletest.Either(1, 6)) }

// FAULTS rows 40 and 41, goal G3: the power goes after the n-th operation, for
// every n until the story is over. Whatever the next boot finds of what was not
// synced, all that has a record is whole, nothing that was not proven is
// trusted, and the account is right; and a fill gone on with is the blob.
func TestPowerCutAfterEveryOperation(t *testing.T) {
	t.Parallel()
	runs := 0
	for n := 1; ; n += everyNth() {
		f := &firstError{}
		w := newWorld(f, memory{durabletest.New(durabletest.Options{})})
		w.seam.Choose = durabletest.Nth(n, w.cut())
		w.story()
		trace := w.seam.Trace()
		if w.atCut == nil {
			if n < 300 {
				t.Errorf("only %d operations: the story is not told", n)
			}
			break
		}
		for seed := range uint64(outcomesEach) {
			runs++
			w.after(f, seed).bootAfter()
			if f.text != "" {
				t.Fatalf("power cut after operation %d (%s), outcome %d: %s", n, trace[n-1], seed, f.text)
			}
		}
	}
	t.Logf("%d outcomes of power cuts", runs)
}

// bootAfter is a boot after a power cut: what is here is right, what is not is
// fetched again, and what that leaves is right as well.
func (w *world) bootAfter() {
	w.Helper()
	if !w.start() {
		w.Fatalf("it does not start")
		return
	}
	w.readAll()
	w.closeReaders()
	w.counted()
	for i := range 9 {
		w.fill(i, commit)
	}
	w.checkpoint(3)
	w.counted()
	w.stop()
	w.wellAfter()
}

// FAULTS row 40: a process is killed after the n-th operation. All that it wrote
// is there, and the next one may go on with it.
func TestKillAfterEveryOperation(t *testing.T) {
	t.Parallel()
	kills := 0
	for n := 1; ; n += everyNth() {
		f := &firstError{}
		w := newWorld(f, memory{durabletest.New(durabletest.Options{})})
		var left *durabletest.FS
		w.seam.Choose = durabletest.Nth(n, durabletest.Fault{After: func() {
			left = w.disk.(memory).Kill()
			w.cutNow()
		}})
		w.story()
		if left == nil {
			break
		}
		kills++
		next := newWorld(f, memory{left})
		next.index, next.closing, next.boot = w.atCut.index, w.atCut.closing, w.atCut.boot
		next.bootAfter()
		if f.text != "" {
			t.Fatalf("killed after operation %d (%s): %s", n, w.seam.Trace()[n-1], f.text)
		}
	}
	t.Logf("%d kills", kills)
}
