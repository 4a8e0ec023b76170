package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

const (
	// heapRoom is how many bytes of garbage may gather: as many again as are in
	// use is Go's own rule, and with a few megabytes in use it collects every
	// two hundred of a storm of small fills, which make 25 KiB each. With the hot objects in memory it would let gather more than the
	// heap should grow by, and they cost next to nothing to mark: they are bytes.
	heapRoom = 16 << 20
	// The bounds of Go's GOGC: half and twice its own rule, 100.
	leastPercent, mostPercent = 50, 200
	goPercent                 = 100
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
	p.percent.Store(goPercent)
	p.adapt()
	return func() {
		p.stopped.Store(true)
		debug.SetGCPercent(goPercent)
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
