// Package report keeps what the scenarios measured, takes medians, compares them
// with the targets and writes it all as markdown. It measures nothing.
package report

import (
	"math"
	"slices"
	"sync"

	"cistern/bench/stat"
)

// Key names one measured value.
type Key struct {
	Scenario string // "warm-large"
	Case     string // "C=8 copy"
	Peer     string // "cistern"
	Metric   string // "GB/s"
}

// Samples are measured values, several for each key where rounds were repeated.
// Safe for concurrent use; the zero value is ready.
type Samples struct {
	mu   sync.Mutex
	m    map[Key][]float64 // guarded by mu
	keys []Key             // in order of their first value; guarded by mu
}

// Add records one value.
func (s *Samples) Add(k Key, v float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[Key][]float64{}
	}
	if _, ok := s.m[k]; !ok {
		s.keys = append(s.keys, k)
	}
	s.m[k] = append(s.m[k], v)
}

// Median returns the middle of what was recorded under k, NaN when nothing was.
func (s *Samples) Median(k Key) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return stat.Median(s.m[k])
}

// Values returns what was recorded under k, in order.
func (s *Samples) Values(k Key) []float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.m[k])
}

// Max returns the largest value recorded under k, NaN when there is none.
func (s *Samples) Max(k Key) float64 {
	vs := s.Values(k)
	if len(vs) == 0 {
		return math.NaN()
	}
	return slices.Max(vs)
}

// Ratio returns the median over rounds of peer's value divided by base's of the
// same round: rounds are interleaved, so that what slows the machine for a while
// slows both. NaN when either is missing.
func (s *Samples) Ratio(k Key, base string) float64 {
	b := k
	b.Peer = base
	return s.Against(k, b)
}

// Against is Ratio for any two keys whose rounds were interleaved.
func (s *Samples) Against(k, base Key) float64 {
	xs, ys := s.Values(k), s.Values(base)
	n := min(len(xs), len(ys))
	rs := make([]float64, 0, n)
	for i := range n {
		rs = append(rs, xs[i]/ys[i])
	}
	return stat.Median(rs)
}

// all returns the keys of one scenario in order of their first value.
func (s *Samples) all(scenario string) []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Key
	for _, k := range s.keys {
		if k.Scenario == scenario {
			out = append(out, k)
		}
	}
	return out
}

// Scenarios returns the names of those that recorded anything, in order.
func (s *Samples) Scenarios() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, k := range s.keys {
		if !slices.Contains(out, k.Scenario) {
			out = append(out, k.Scenario)
		}
	}
	return out
}
