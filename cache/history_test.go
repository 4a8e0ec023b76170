package cache

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
)

// FAULTS rows 30 to 34, 37, 40 and 41, goal G4: random histories of pulls of
// blobs and manifests, fills that break off, readers that stay, removals,
// checkpoints, stops, kills, power cuts and failing operations, in a cache that
// is too small for all. No byte is wrong, no pull fails, no stranger is given
// what is private, what was recorded is there after a stop, a kill or a power
// cut, the account is right, and the cap holds. There are a hundred for each time
// that rapid is called, if -rapid.checks says nothing else. A failure prints the
// seed that brings it back.
func TestHistories(t *testing.T) {
	t.Parallel()
	for i := range durabletest.Either(2, 1) { // at once
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for range durabletest.Times(1) {
				rapid.Check(t, func(rt *rapid.T) {
					deeds := rapid.SliceOfN(aDeed, 1, 25).Draw(rt, "deeds")
					outcome := rapid.Uint64().Draw(rt, "outcome")
					if text := inBubble(t, storyLimit, func(w *world) { w.live(deeds, outcome) }); text != "" {
						rt.Fatal(text)
					}
				})
			}
		})
	}
}

// deed is what happens next.
type deed struct {
	what    string
	content int
	at      int // operations from now
	errno   syscall.Errno
	done    bool
	roomy   bool // the next process has room for all
}

// deeds are what happens in a life, the more often the more often they stand here.
var deeds = []string{
	"pull", "pull", "pull", "pull", "pull", "pull as a blob", "break off", "begin", "begin", "read on", "ask", "remove", "evict", "evict",
	"checkpoint", "checkpoint", "checkpoint", "tick", "stop", "kill", "kill later", "power cut", "power cut later", "fault", "fault", "lose the index",
}

var aDeed = rapid.Custom(func(t *rapid.T) deed {
	return deed{
		what:    rapid.SampledFrom(deeds).Draw(t, "deed"),
		content: rapid.IntRange(0, len(library())-1).Draw(t, "content"),
		at:      rapid.IntRange(1, 60).Draw(t, "operations from now"),
		errno:   rapid.SampledFrom([]syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.EROFS}).Draw(t, "errno"),
		done:    rapid.Bool().Draw(t, "done"),
		roomy:   rapid.Bool().Draw(t, "roomy"),
	}
})

// live lives one history.
func (w *world) live(deeds []deed, outcome uint64) {
	rng := rand.New(rand.NewPCG(outcome, 0))
	w.next(nil)
	for _, d := range deeds {
		w.do(d, rng)
		w.settle()
		if w.cut || w.killed {
			w.begins(d, rng)
		}
		if !w.faulted {
			w.counted()
		}
	}
	w.begins(deed{}, rng)
	w.well()
}

// do does what happens next.
func (w *world) do(d deed, rng *rand.Rand) {
	k := library()[d.content]
	switch d.what {
	case "pull":
		w.pull(k)
	case "pull as a blob":
		w.asBlob(k)
	case "break off":
		w.pullPart(k)
	case "begin":
		w.begin(k)
	case "read on":
		w.readOn(d.at % 3)
	case "ask":
		w.ask(k)
	case "remove":
		if k.manifest {
			w.remove(k)
		}
	case "evict":
		w.evict(k)
	case "checkpoint":
		w.checkpoint()
	case "tick":
		<-time.After(checkpointEvery) // of the bubble's clock
	case "stop":
		w.stop()
		w.begins(d, rng)
	case "lose the index":
		if w.stop(); !w.cut {
			w.loseIndex()
		}
		w.begins(d, rng)
	case "kill":
		w.kill()
	case "power cut":
		w.off(true)
	default:
		w.strike(d)
	}
}

// evict evicts a blob as the evictor does.
func (w *world) evict(k work) {
	if w.c.store == nil || w.cut {
		return
	}
	if rec, ok := w.c.findStored(k.d); ok && !w.c.busy(k.d) {
		w.c.expel([]index.Record{rec})
	}
}

// begins begins the next process, after whatever ended the one before.
func (w *world) begins(d deed, rng *rand.Rand) {
	w.faultAt(nil)
	w.stop()
	if w.limit = storyLimit; d.roomy {
		w.limit = 4 * storyLimit
	}
	if !w.dark {
		rng = nil
	}
	w.next(rng)
	w.settle()
	w.counted()
	if d.roomy {
		w.kept()
		w.counted()
	}
}

// strike has something happen to a later operation.
func (w *world) strike(d deed) {
	at := w.seam.Count() + d.at
	w.faultAt(func(op durabletest.Op) *durabletest.Fault {
		switch {
		case op.N != at:
			return nil
		case d.what == "power cut later":
			return &durabletest.Fault{After: func() { w.off(true) }}
		case d.what == "kill later":
			return &durabletest.Fault{After: func() { w.off(false) }}
		}
		w.faulted = true
		return &durabletest.Fault{Err: fmt.Errorf("%w: %w", errInjected, d.errno), Done: d.done}
	})
}
