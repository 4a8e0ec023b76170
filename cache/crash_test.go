package cache

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cistern/internal/durable/durabletest"
)

const (
	// outcomesEach is how many outcomes of each power cut are looked at.
	outcomesEach = 2
	// cutsOneIn is after how many operations there is a cut or a kill, see after.
	cutsOneIn = 16
)

// FAULTS rows 37, 40 and 41, goal G3: the power goes after the n-th operation on
// the disk, and the index is as the last transaction left it. What was recorded
// is there without upstream, nothing else is believed, the account is right and
// the cap kept.
func TestPowerCutAfterEveryOperation(t *testing.T) {
	t.Parallel()
	outcomes := 0
	endAfterEveryOperation(t, true, func(w *world, n int) { outcomes += w.outcomes(n, outcomesEach) })
	t.Logf("%d outcomes", outcomes)
}

// FAULTS row 40: a process is killed after the n-th operation.
func TestKillAfterEveryOperation(t *testing.T) {
	t.Parallel()
	endAfterEveryOperation(t, false, func(w *world, _ int) {
		w.stop()
		w.after("after").bootAfter(nil)
	})
}

// endAfterEveryOperation tells the story until the power is cut or the process
// killed, after the n-th operation, for one n after the other until the story is
// over. Each time it has a look at what is left.
func endAfterEveryOperation(t *testing.T, power bool, look func(w *world, n int)) {
	t.Helper()
	n, ends := 1, 0
	for over := false; !over; n = after(n, cutsOneIn) {
		var at durabletest.Op
		text := inBubble(t, storyLimit, func(w *world) {
			w.next(nil)
			first := w.seam.Count()
			w.faultAt(func(op durabletest.Op) *durabletest.Fault {
				if op.N != first+n {
					return nil
				}
				at = op
				return &durabletest.Fault{After: func() { w.off(power) }}
			})
			w.story()
			if over = w.seam.Count() < first+n; w.cut {
				ends++
				look(w, n)
			}
		})
		if text != "" {
			t.Errorf("ended after operation %d (%s), by a power cut: %v: %s", n, at, power, text)
		}
	}
	if n < 1000 {
		t.Errorf("only %d operations: the story is not told", n)
	}
	t.Logf("%d ends", ends)
}

// outcomes looks at what the next boot may find, and at what it makes of it.
func (w *world) outcomes(seed, each int) int {
	w.stop()
	for i := range each {
		rng := rand.New(rand.NewPCG(uint64(seed), uint64(i)))
		w.after(fmt.Sprint("outcome", i)).bootAfter(rng)
	}
	return each
}

// after is the world that the next boot finds.
func (w *world) after(name string) *world {
	next := newWorld(w.failer, filepath.Join(w.index.root, name), w.limit)
	if err := os.Mkdir(next.index.root, 0o700); err != nil {
		w.Errorf("%v", err)
	}
	next.disk, next.cut, next.index.left = w.disk, true, slices.Clone(w.index.left)
	next.removed = maps.Clone(w.removed)
	return next
}

// bootAfter is a boot after a power cut, or a kill if rng is nil: first with so
// much room that nothing needs to go, then with as little as before.
func (w *world) bootAfter(rng *rand.Rand) {
	w.limit *= 4
	w.next(rng)
	w.settle()
	w.counted()
	w.kept()
	w.counted()
	w.limit /= 4
	w.next(nil)
	w.settle()
	w.mu.Lock()
	w.capped = true
	w.mu.Unlock()
	w.well()
	w.stop()
	if w.over > 0 {
		w.Errorf("%d bytes over the cap", w.over)
	}
}

// FAULTS rows 40 and 41: the power goes in the middle of the n-th transaction
// of the index, which then was or was not.
func TestPowerCutInEveryTransaction(t *testing.T) {
	t.Parallel()
	n, cuts, outcomes := 1, 0, 0
	for over := false; !over; n += durabletest.OneIn(durabletest.Either(1, 3)) {
		text := inBubble(t, storyLimit, func(w *world) {
			w.next(nil)
			count := 0
			w.index.faultAt(func(op string) *durabletest.Fault {
				if op != "apply" && op != "create" && op != "open" {
					return nil
				}
				if count++; count != n {
					return nil
				}
				return &durabletest.Fault{After: func() { w.off(true) }}
			})
			w.story()
			if over = !w.cut; over {
				return
			}
			cuts++
			outcomes += w.outcomes(n, durabletest.Either(4, 1)*outcomesEach)
		})
		if text != "" {
			t.Errorf("power cut in transaction %d: %s", n, text)
		}
	}
	t.Logf("%d cuts, %d outcomes", cuts, outcomes)
}
