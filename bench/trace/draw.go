package trace

import (
	"math"
	"math/rand/v2"
	"sort"
)

// point of an inverse distribution: p percent are at most v.
type point struct{ p, v float64 }

// curve is an inverse distribution, drawn from by log-linear interpolation. The
// sizes of layers have two humps (tiny COPY layers, and packages), which no
// formula with two parameters has.
type curve []point

// The curves are of images made in 2023 and 2024, compressed (general: 315
// repositories with 4,421 layers; AI: 66 with 2,837).
var (
	generalLayers = curve{
		{0, 32}, {5, 176}, {10, 276}, {20, 678}, {30, 3300}, {40, 223e3}, {50, 1.2e6}, {60, 4.9e6}, {70, 15e6}, {75, 26e6},
		{80, 38e6}, {85, 65e6}, {90, 130e6}, {95, 277e6}, {98, 867e6}, {99, 1.37e9}, {99.5, 1.87e9}, {100, 7.4e9},
	}
	aiLayers = curve{
		{0, 32}, {5, 170}, {10, 251}, {20, 671}, {30, 4700}, {40, 16e3}, {50, 563e3}, {60, 5.7e6}, {70, 29e6}, {75, 52e6},
		{80, 86e6}, {85, 147e6}, {90, 337e6}, {95, 1.14e9}, {98, 2.74e9}, {99, 3.19e9}, {99.5, 3.81e9}, {100, 5.6e9},
	}
	layersOfGeneral = curve{{0, 1}, {10, 1}, {25, 3}, {50, 9}, {75, 14}, {90, 22}, {95, 31}, {99, 135}, {100, 135}}
	layersOfAI      = curve{{0, 1}, {10, 9}, {25, 12}, {50, 24}, {75, 41}, {90, 52}, {95, 72}, {99, 88}, {100, 88}}
	configs         = curve{{0, 500}, {10, 1500}, {25, 3000}, {50, 7000}, {75, 10600}, {90, 25e3}, {95, 37e3}, {99, 49e3}, {100, 60e3}}
	manifests       = curve{{0, 400}, {10, 700}, {25, 1000}, {50, 2600}, {75, 3700}, {90, 6800}, {95, 10e3}, {99, 24e3}, {100, 40e3}}
	indexes         = curve{{0, 400}, {50, 1700}, {90, 6700}, {99, 12e3}, {100, 20e3}}
	attestations    = curve{{0, 1e6}, {25, 2e6}, {50, 2.9e6}, {75, 6e6}, {100, 17.8e6}}
	models          = curve{{0, 600e6}, {50, 5e9}, {100, 40e9}}
)

// at gives the value below which p percent lie.
func (c curve) at(p float64) float64 {
	i := sort.Search(len(c), func(i int) bool { return c[i].p >= p })
	if i == 0 {
		return c[0].v
	}
	a, b := c[i-1], c[i]
	share := (p - a.p) / (b.p - a.p)
	return math.Exp(math.Log(a.v) + share*(math.Log(b.v)-math.Log(a.v)))
}

func (c curve) draw(r *rand.Rand) int64 { return int64(math.Round(c.at(100 * r.Float64()))) }

// zipf draws ranks from 0, rank k with the weight 1/(k+1)^s.
type zipf struct{ sums []float64 }

func newZipf(n int, s float64) zipf {
	z := zipf{make([]float64, n)}
	sum := 0.0
	for k := range n {
		sum += math.Pow(float64(k+1), -s)
		z.sums[k] = sum
	}
	return z
}

func (z zipf) draw(r *rand.Rand) int {
	return sort.SearchFloat64s(z.sums, r.Float64()*z.sums[len(z.sums)-1])
}

// between draws evenly from low to high, both included.
func between(r *rand.Rand, low, high int) int { return low + r.IntN(high-low+1) }
