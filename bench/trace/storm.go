package trace

import (
	"fmt"
	"slices"
	"time"
)

// storm is scenario B: many nodes pull the same images within a minute, and an hour
// later a new layer of each.
func storm(m *maker, scale float64) {
	r := m.rng
	images := between(r, 5, 15)
	nodes := max(10, int(float64(between(r, 100, 1000))*scale))
	c := newCatalogue(m, images-1, 1, 1)
	first := m.clients(func(i int) string { return fmt.Sprint("node-", i) }, nodes)
	ramp := time.Duration(between(r, 10, 60)) * time.Second
	stores := make([]store, nodes)
	rollOut := func(start time.Duration) {
		for n := range stores {
			at := start + scaled(ramp, r.Float64())
			for repo := range c.repos {
				at += kubeletDelay(repo)
				im := c.repos[repo].tags[0]
				m.pull(visit{at: at, client: first + int32(n), repo: repo}, im, stores[n].has)
				stores[n].keep(im, images)
			}
		}
	}
	rollOut(0)
	for repo := range c.repos {
		tag := &c.repos[repo].tags[0]
		*tag = m.topLayer(*tag)
	}
	rollOut(time.Hour)
}

// kubeletDelay is what kubelet waits before its next pull: 5 a second, the first 10
// at once.
func kubeletDelay(pull int) time.Duration {
	if pull < 10 {
		return 0
	}
	return 200 * time.Millisecond
}

// topLayer is im with a new layer at its top.
func (m *maker) topLayer(im image) image {
	top := len(im.layers) - 1
	if top > 0 && im.layers[top] == emptyLayer {
		top--
	}
	layers := slices.Clone(im.layers)
	layers[top] = m.like(layers[top])
	im.layers = layers
	im.shared = min(im.shared, top)
	return m.seal(im, im.index != None)
}
