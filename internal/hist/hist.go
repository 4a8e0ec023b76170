// Package hist counts durations in fixed buckets with atomics, so that a hot
// path can observe without a lock, a label lookup or an allocation. It knows
// nothing of how the figures are exported; package metric turns a Snapshot
// into a Prometheus histogram.
package hist

import (
	"math"
	"sync/atomic"
)

// Histogram is a set of buckets with upper bounds in seconds. It is safe for
// concurrent use.
type Histogram struct {
	bounds []float64
	counts []atomic.Uint64 // one more than bounds: the last is +Inf
	sum    atomic.Uint64   // nanoseconds: an integer adds without a loop
}

// Snapshot is a histogram at one moment; Counts are cumulative, in the order
// of Bounds, as Prometheus wants them.
type Snapshot struct {
	Bounds []float64
	Counts []uint64
	Count  uint64
	Sum    float64 // seconds
}

// New makes a histogram; bounds are upper bounds in seconds, ascending.
func New(bounds ...float64) *Histogram {
	return &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Latency makes a histogram for waits from a tenth of a millisecond to 100 s.
func Latency() *Histogram {
	return New(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 100)
}

// Observe counts one value, in seconds; negative ones count as 0.
func (h *Histogram) Observe(seconds float64) {
	seconds = max(seconds, 0)
	i := 0
	for i < len(h.bounds) && seconds > h.bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(uint64(math.Round(seconds * 1e9)))
}

// Snapshot reads the histogram. Values observed while it runs may be counted
// in some of its figures and not in others.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{Bounds: h.bounds, Counts: make([]uint64, len(h.bounds)), Sum: float64(h.sum.Load()) / 1e9}
	for i := range h.counts {
		s.Count += h.counts[i].Load()
		if i < len(s.Counts) {
			s.Counts[i] = s.Count
		}
	}
	return s
}
