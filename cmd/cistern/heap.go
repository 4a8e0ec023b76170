package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

const (
	// heapRoom is how many bytes of garbage may gather at least, at most as
	// many again as are in use: a storm of small fills makes 90 KiB each, and
	// with a few megabytes in use Go's own rule collects every sixty of them,
	// for a fifth of the processor. A heap above heapRoom is left to that rule,
	// so that a large one grows no larger.
	heapRoom = 16 << 20
	// The bounds of Go's GOGC: its own rule, and twice the garbage.
	leastPercent, mostPercent = 100, 200
)

// heapPace adapts GOGC to the heap, after each collection.
type heapPace struct {
	percent atomic.Int64 // what is set
	stopped atomic.Bool
}

// paceHeap starts a heapPace, unless the operator has said what GOGC is to be.
// The returned function ends it; it is process-wide, and there must be one.
func paceHeap(getenv func(string) string) (stop func()) {
	if getenv("GOGC") != "" {
		return func() {}
	}
	p := &heapPace{}
	p.percent.Store(leastPercent)
	p.adapt()
	return func() {
		p.stopped.Store(true)
		debug.SetGCPercent(leastPercent)
	}
}

// adapt sets GOGC, and has itself called after the next collection.
func (p *heapPace) adapt() {
	if p.stopped.Load() {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	// Setting it stops the world: only where it makes a difference.
	was := int(p.percent.Load())
	if want := gcPercent(live[0].Value.Uint64()); (want-was)*10/was != 0 {
		p.percent.Store(int64(want))
		debug.SetGCPercent(want)
	}
	next := &struct{ p *heapPace }{p} // has a pointer: small ones without share their memory, and their end
	runtime.AddCleanup(next, (*heapPace).adapt, p)
}

// gcPercent is GOGC for so many bytes in use.
func gcPercent(live uint64) int {
	return int(min(max(100*heapRoom/max(live, 1), leastPercent), mostPercent))
}
