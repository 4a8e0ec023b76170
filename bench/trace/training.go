package trace

import (
	"fmt"
	"time"
)

// Training: GPU nodes start empty, in crowds, with images of gigabytes; and models,
// each of one blob, that are pulled once.
const (
	aiRepos   = 15
	aiModels  = 10
	aiDays    = 7
	aiDeploys = 1.2 // an hour, at the busiest
)

// training is scenario D.
func training(m *maker, scale float64) {
	r := m.rng
	c := newCatalogue(m, 0, aiRepos, 1)
	nodes := between(r, 16, 64)
	first := m.clients(func(i int) string { return fmt.Sprint("gpu-", i) }, nodes)
	popular := newZipf(aiRepos, 0.8)
	end := scaled(aiDays*day, scale)
	today := 0
	m.arrivals(end, aiDeploys, scale, func(at time.Duration) {
		for today < int(at/day) { // a new tag of each, every day
			today++
			for repo := range c.repos {
				c.repos[repo].tags[0] = c.moved(m, c.repos[repo].tags[0])
			}
		}
		repo := popular.draw(r)
		crowd := between(r, min(16, nodes), nodes)
		for _, n := range r.Perm(nodes)[:crowd] {
			m.pull(visit{at: at + scaled(time.Minute, r.Float64()), client: first + int32(n), repo: repo, tag: today}, c.repos[repo].tags[0], nil)
		}
	})
	for i := range aiModels {
		model := image{index: None, layers: []int32{m.object(Blob, models.draw(r))}}
		at := scaled(end, r.Float64())
		m.pull(visit{at: at, client: first + int32(r.IntN(nodes)), repo: aiRepos + i}, m.seal(model, false), nil)
	}
}
