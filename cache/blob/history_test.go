package blob

import (
	"fmt"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"cistern/internal/durable/durabletest"
)

// batches is how many live histories at once.
const batches = 8

// checks is how often each of them has rapid live a hundred.
func checks() int { return durabletest.Times(durabletest.Either(25, 3)) }

// FAULTS rows 30 to 33, 37, 40 and 41, goal G4: random histories of fills,
// checkpoints, evictions, stops, kills, reboots, power cuts and failing
// operations. All that has a record is whole, nothing unproven is trusted, the
// account is right. FAULT_TIMES=100 lives a hundred times as many; a failure
// prints the seed that brings it back.
func TestHistories(t *testing.T) {
	t.Parallel()
	t.Cleanup(func() { // after the last of the batches
		if !t.Failed() {
			t.Logf("| random histories of a store on a disk that crashes and fails | random | %d histories |", batches*checks()*100)
		}
	})
	for i := range batches {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for range checks() {
				rapid.Check(t, live)
			}
		})
	}
}

// life is one random history.
type life struct {
	*world
	rt *rapid.T
}

func live(rt *rapid.T) {
	l := &life{newWorld(rt, memory{durabletest.New(durabletest.Options{})}), rt}
	l.begin()
	for range rapid.IntRange(1, 15).Draw(rt, "steps") {
		l.step(rapid.SampledFrom(deeds).Draw(rt, "deed"))
	}
	l.seam.Choose = nil
	if l.atCut != nil { // by the last look at the account
		l.begin()
	}
	l.closeReaders()
	l.kill()
	l.wellAfter()
}

// deeds are what happens in a life, the more often the more often they stand here.
var deeds = []string{
	"fill", "fill", "fill", "fill", "keep", "keep", "abort", "checkpoint", "checkpoint", "checkpoint broken off", "remove", "remove",
	"read", "read", "close readers", "lose", "stop", "kill", "reboot", "power cut", "power cut", "power cut later", "fault", "fault",
}

func (l *life) begin() {
	for range 4 { // a fault may be waiting, or a power cut
		if l.atCut != nil {
			l.world = l.after(l.rt, rapid.Uint64().Draw(l.rt, "outcome"))
		}
		if l.start() {
			return
		}
	}
	l.Fatalf("it does not start")
}

func (l *life) content() int { return rapid.IntRange(0, 5).Draw(l.rt, "content") }

func (l *life) step(deed string) {
	switch deed {
	case "fill":
		l.fill(l.content(), commit)
	case "keep":
		l.fill(l.content(), keep)
	case "abort":
		l.fill(l.content(), abort)
	case "checkpoint":
		l.checkpoint(3)
	case "checkpoint broken off":
		l.checkpoint(rapid.IntRange(1, 2).Draw(l.rt, "steps"))
	case "remove":
		l.removeContent(l.content())
	case "read":
		d, _ := truth(l.content())
		l.read(d)
	case "close readers":
		l.closeReadersBut(rapid.IntRange(0, 2).Draw(l.rt, "but"))
	case "lose":
		l.lose(l.content())
	default:
		l.upheaval(deed)
	}
	l.mind()
}

// upheaval is what a process does not survive, or not without a scratch.
func (l *life) upheaval(deed string) {
	at := l.seam.Count() + rapid.IntRange(1, 30).Draw(l.rt, "operations from now")
	switch deed {
	case "stop", "reboot":
		l.stop()
		if deed == "reboot" {
			l.boot++
		}
		l.begin()
	case "kill":
		l.kill()
		l.begin()
	case "power cut":
		l.cut().After()
	case "power cut later":
		l.seam.Choose = durabletest.Nth(at, l.cut())
	case "fault":
		errno := rapid.SampledFrom([]syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.EROFS}).Draw(l.rt, "errno")
		fault := durabletest.Fault{Err: fmt.Errorf("%w: %w", errInjected, errno), Done: rapid.Bool().Draw(l.rt, "done")}
		l.seam.Choose = func(op durabletest.Op) *durabletest.Fault {
			if op.N != at {
				return nil
			}
			l.faulted = true
			return &fault
		}
	}
}

// mind looks after each deed: boots if the power is gone, and counts.
func (l *life) mind() {
	if l.atCut != nil {
		l.begin()
	}
	if !l.faulted {
		l.counted()
	}
}
