// Package crowd makes a cache directory of very many blobs without a daemon: the
// files under blobs/ alone, as docs/operating.md describes them, with no index. A
// daemon that is started on it adopts them. It knows the layout from the manual
// and no code of the cache: if the two disagree, the scenario that uses it fails.
package crowd

import (
	"math"
	"math/rand/v2"
)

// ProbeSize is the size of one blob in fifty: just above what a daemon keeps in
// memory (32 KiB), so that a hit on it needs the index and the disk, and small
// enough that the body is not what takes the time.
const ProbeSize = 36 << 10

// point is one percentile of a size distribution.
type point struct{ percent, bytes float64 }

// kind is a share of the blobs with its sizes, drawn by log-linear interpolation.
type kind struct {
	share float64
	sizes []point
}

// mix is what a cache of many images holds by number: manifests, configs and the
// tiny layers that make up a third of all layers (measured sizes; the large layers
// that hold nearly all of the bytes are left out, or a million would be 70 TB), a
// few up to 1 MiB, and the probes. The mean is about 5 KiB, 8 KiB allocated.
func mix() []kind {
	return []kind{
		{0.500, []point{{0, 420}, {10, 700}, {25, 1000}, {50, 2600}, {75, 3700}, {90, 6800}, {95, 10e3}, {99, 24e3}, {100, 32e3}}},        // manifests
		{0.174, []point{{0, 600}, {10, 1500}, {25, 3000}, {50, 7000}, {75, 10.6e3}, {90, 25e3}, {95, 37e3}, {99, 49e3}, {100, 64 << 10}}}, // configs
		{0.300, []point{{0, 32}, {17, 176}, {33, 276}, {67, 678}, {100, 3300}}},                                                           // tiny layers
		{0.006, []point{{0, 4 << 10}, {100, 1 << 20}}},                                                                                    // layers
		{0.020, []point{{0, ProbeSize}, {100, ProbeSize}}},
	}
}

// Spec is a crowd: the same one has the same blobs. Safe for concurrent use.
type Spec struct {
	Seed  uint64
	Blobs int
	// Probes makes all blobs ProbeSize long instead of mixing sizes.
	Probes bool
}

// Size is the length of blob i in bytes.
func (s Spec) Size(i int) int64 {
	if s.Probes {
		return ProbeSize
	}
	r := rand.New(rand.NewPCG(s.Seed, uint64(i)))
	u := r.Float64()
	kinds := mix()
	for _, k := range kinds {
		if u < k.share {
			return k.draw(r.Float64() * 100)
		}
		u -= k.share
	}
	return kinds[len(kinds)-1].draw(0)
}

func (k kind) draw(percent float64) int64 {
	for i := 1; i < len(k.sizes); i++ {
		a, b := k.sizes[i-1], k.sizes[i]
		if percent <= b.percent {
			t := (percent - a.percent) / (b.percent - a.percent)
			return int64(math.Exp(math.Log(a.bytes)+t*(math.Log(b.bytes)-math.Log(a.bytes))) + 0.5)
		}
	}
	return int64(k.sizes[len(k.sizes)-1].bytes)
}
