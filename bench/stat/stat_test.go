package stat_test

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cistern/bench/stat"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   []float64
		want float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
		{[]float64{7, 7, 7, 1000}, 7},
	} {
		before := slices.Clone(c.in)
		if got := stat.Median(c.in); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.in, got, c.want)
		}
		if !slices.Equal(before, c.in) {
			t.Errorf("Median changed its argument to %v", c.in)
		}
	}
	if !math.IsNaN(stat.Median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[99-i] = float64(i + 1)
	}
	for _, c := range []struct {
		in   []float64
		p    float64
		want float64
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.5, 100},
		{hundred, 100, 100},
		{hundred, 0.1, 1},
		{[]float64{5}, 99, 5},
		{[]float64{1, 2}, 50, 1},
		{[]float64{1, 2}, 51, 2},
	} {
		if got := stat.Percentile(c.in, c.p); got != c.want {
			t.Errorf("Percentile(%d values, %v) = %v, want %v", len(c.in), c.p, got, c.want)
		}
	}
	if !math.IsNaN(stat.Percentile(nil, 50)) {
		t.Error("a percentile of nothing is a number")
	}
}

// A percentile is one of the samples, and at least that share does not exceed it.
func TestPercentileHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		xs := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 200).Draw(t, "xs")
		p := rapid.Float64Range(0.01, 100).Draw(t, "p")
		got, below := stat.Percentile(xs, p), 0
		for _, x := range xs {
			if x <= got {
				below++
			}
		}
		if !slices.Contains(xs, got) || float64(below) < p/100*float64(len(xs))-1e-9 {
			t.Fatalf("Percentile(%v, %v) = %v", xs, p, got)
		}
	})
}

func TestSpread(t *testing.T) {
	t.Parallel()
	if got := stat.Spread([]float64{9, 10, 12}); math.Abs(got-0.3) > 1e-9 {
		t.Errorf("Spread = %v, want 0.3", got)
	}
}
