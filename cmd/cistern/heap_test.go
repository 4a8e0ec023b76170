package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestGCPercent(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 200, 1 << 20: 200, 8 << 20: 200, 10 << 20: 160, 16 << 20: 100, 20 << 20: 80, 32 << 20: 50, 1 << 30: 50, 1 << 60: 50} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d bytes: %d, want %d", live, got, want)
		}
	}
}

// What is set follows the heap, and is taken back. Not parallel: it is the
// whole process's.
func TestHeapPace(t *testing.T) {
	before := debug.SetGCPercent(goPercent)
	defer debug.SetGCPercent(before)
	stop := paceHeap(func(string) string { return "" })
	set := func() int {
		now := debug.SetGCPercent(goPercent)
		debug.SetGCPercent(now)
		return now
	}
	if got := set(); got <= goPercent {
		t.Errorf("a small heap: %d", got)
	}
	large := make([]byte, 64<<20)
	for set() != leastPercent { // the cleanup runs some time after the collection
		runtime.GC()
	}
	runtime.KeepAlive(large)
	stop()
	if got := set(); got != goPercent {
		t.Errorf("after its end: %d", got)
	}
	paceHeap(func(string) string { return "50" })()
	if got := set(); got != goPercent {
		t.Errorf("GOGC is set by the operator: %d", got)
	}
}
