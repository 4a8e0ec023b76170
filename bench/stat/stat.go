// Package stat holds the small statistics of the bench: medians over rounds and
// percentiles over requests. It is not a histogram: samples are kept whole, since
// a bench run has thousands of them, not millions a second.
package stat

import (
	"math"
	"slices"
)

// Median returns the middle value of xs, the mean of the two middle ones when
// their number is even, and NaN when there is none. xs is left as it was.
func Median(xs []float64) float64 {
	if len(xs) == 0 {
		return math.NaN()
	}
	s := slices.Clone(xs)
	slices.Sort(s)
	mid := len(s) / 2
	if len(s)%2 == 1 {
		return s[mid]
	}
	return (s[mid-1] + s[mid]) / 2
}

// Percentile returns the nearest-rank percentile p (0 < p <= 100) of xs: the
// smallest value that at least p percent of the samples do not exceed, so that
// p = 100 is the maximum and no value is invented between two samples. NaN when
// there is no sample. xs is left as it was.
func Percentile(xs []float64, p float64) float64 {
	if len(xs) == 0 {
		return math.NaN()
	}
	s := slices.Clone(xs)
	slices.Sort(s)
	rank := min(max(int(math.Ceil(p/100*float64(len(s)))), 1), len(s))
	return s[rank-1]
}

// Spread returns (max - min) / median: how far rounds of one measurement lie
// apart. NaN without samples or with a median of zero.
func Spread(xs []float64) float64 {
	m := Median(xs)
	if len(xs) == 0 || m == 0 {
		return math.NaN()
	}
	return (slices.Max(xs) - slices.Min(xs)) / m
}
