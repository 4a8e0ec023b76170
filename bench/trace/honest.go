package trace

import (
	"slices"

	"cistern/bench/stat"
)

// Figures are what is known of real traffic, reckoned from a trace. Shares are from
// 0 to 1; "blob requests" are GETs.
type Figures struct {
	Requests, Pings, Manifests, BlobGETs int
	Blobs                                int     // different ones asked for
	Once                                 float64 // share of blobs that are asked for once
	Top                                  float64 // share of blob requests for the hundredth of blobs asked for most
	Infinite                             float64 // share of blob requests that are not the first
	GapMedian, GapP90                    int     // blob requests between two of the same blob
	MeanBlob                             float64 // bytes of a blob request
	LargeBytes                           float64 // share of bytes that is of blobs above 64 MiB
	Sharing                              float64 // see Trace.Sharing
	Footprint                            int64   // see Trace.Footprint
	Scanned                              int64   // distinct bytes that scanners pull: those of one sweep and a little
}

const large = 64 << 20

// Figures reckons them.
func (t *Trace) Figures() Figures {
	f := Figures{Requests: len(t.Requests), Sharing: t.Sharing, Footprint: t.Footprint()}
	counts := make([]int, len(t.Objects))
	last := make([]int, len(t.Objects))
	var gaps []int
	scanned := make([]bool, len(t.Objects))
	var bytes, ofLarge int64
	for _, r := range t.Requests {
		if r.Scan && !r.Head && r.Object != None && !scanned[r.Object] {
			scanned[r.Object] = true
			f.Scanned += Allocated(t.Objects[r.Object].Size)
		}
		switch {
		case r.Object == None:
			f.Pings++
			continue
		case t.Objects[r.Object].Kind == Manifest:
			f.Manifests++
			continue
		case r.Head:
			continue
		}
		f.BlobGETs++
		if counts[r.Object] > 0 {
			gaps = append(gaps, f.BlobGETs-last[r.Object])
		}
		counts[r.Object]++
		last[r.Object] = f.BlobGETs
		size := t.Objects[r.Object].Size
		bytes += size
		if size > large {
			ofLarge += size
		}
	}
	counts = slices.DeleteFunc(counts, func(n int) bool { return n == 0 })
	slices.SortFunc(counts, func(a, b int) int { return b - a })
	f.Blobs = len(counts)
	if f.Blobs == 0 {
		return f
	}
	top, once := 0, 0
	for i, n := range counts {
		if i < (f.Blobs+99)/100 {
			top += n
		}
		if n == 1 {
			once++
		}
	}
	slices.Sort(gaps)
	if len(gaps) > 0 {
		f.GapMedian, f.GapP90 = gaps[len(gaps)/2], gaps[len(gaps)*9/10]
	}
	f.Once, f.Top = float64(once)/float64(f.Blobs), float64(top)/float64(f.BlobGETs)
	f.Infinite = 1 - float64(f.Blobs)/float64(f.BlobGETs)
	f.MeanBlob, f.LargeBytes = float64(bytes)/float64(f.BlobGETs), float64(ofLarge)/float64(bytes)
	return f
}

// Target is what a figure of scenario A must be for the trace to count as honest.
type Target struct {
	Name      string
	Low, High float64
	Of        func(Figures) float64
}

// Targets are from a registry's recorded trace (259,274 blob requests for 81,335
// blobs in their order) and from layers of today's size.
func Targets() []Target {
	return []Target{
		{"blobs asked for once", 0.60, 0.75, func(f Figures) float64 { return f.Once }},
		{"share of the top hundredth of blobs", 0.35, 0.55, func(f Figures) float64 { return f.Top }},
		{"hits of an infinite cache", 0.60, 0.80, func(f Figures) float64 { return f.Infinite }},
		{"requests to the next use, median", 100, 1000, func(f Figures) float64 { return float64(f.GapMedian) }},
		{"requests to the next use, p90", 10_000, 150_000, func(f Figures) float64 { return float64(f.GapP90) }},
		{"bytes of a blob request, MB", 40, 70, func(f Figures) float64 { return f.MeanBlob / 1e6 }},
		{"share of bytes above 64 MiB", 0.65, 1, func(f Figures) float64 { return f.LargeBytes }},
		{"logical over distinct bytes", sharingMin, sharingMax, func(f Figures) float64 { return f.Sharing }},
	}
}

// Outcome is a target beside what the seeds came to.
type Outcome struct {
	Target
	Median, Min, Max float64
}

// Met tells whether the median is within the target: one seed may have a popular
// image of gigabytes, as a real registry may.
func (o Outcome) Met() bool { return o.Low <= o.Median && o.Median <= o.High }

// Check compares the figures of several seeds with the targets.
func Check(seeds []Figures) (outcomes []Outcome) {
	for _, target := range Targets() {
		var vs []float64
		for _, f := range seeds {
			vs = append(vs, target.Of(f))
		}
		outcomes = append(outcomes, Outcome{target, stat.Median(vs), slices.Min(vs), slices.Max(vs)})
	}
	return outcomes
}
