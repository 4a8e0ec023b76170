package trace

import (
	"fmt"
	"time"
)

// Edge: a week of a site with a slow link.
const (
	edgeNodes   = 20
	edgeRepos   = 60
	edgePulls   = 3   // an hour and node, at the busiest
	edgeChecks  = 0.7 // of them only check the tag
	edgeKept    = 12  // images in a node's store
	edgeUpdated = 0.5 // of the tags move in the night of updates: assumed
)

// edge is scenario C.
func edge(m *maker, scale float64) {
	r := m.rng
	c := newCatalogue(m, edgeRepos, 0, 1)
	first := m.clients(func(i int) string { return fmt.Sprint("node-", i) }, edgeNodes)
	stores := make([]store, edgeNodes)
	popular, ranks := newZipf(edgeRepos, 1), r.Perm(edgeRepos)
	end := scaled(7*day, scale)
	night := scaled(4*day+2*time.Hour, scale)
	updated := false
	m.arrivals(end, edgePulls*edgeNodes, scale, func(at time.Duration) {
		if at >= night && !updated {
			updated = true
			for repo := range c.repos {
				if r.Float64() < edgeUpdated {
					c.repos[repo].tags[0] = c.moved(m, c.repos[repo].tags[0])
				}
			}
		}
		n := r.IntN(edgeNodes)
		repo := ranks[popular.draw(r)]
		im := c.repos[repo].tags[0]
		v := visit{at: at, client: first + int32(n), repo: repo}
		if r.Float64() < edgeChecks || stores[n].hasImage(im.manifest) {
			m.check(v, im, r.Float64() < 0.5)
			return
		}
		m.pull(v, im, stores[n].has)
		stores[n].keep(im, edgeKept)
	})
}

// store is what a client keeps of the images it pulled last.
type store struct {
	images []image // the last one pulled is the last
}

func (s *store) has(object int32) bool {
	for _, im := range s.images {
		if im.config == object {
			return true
		}
		for _, l := range im.layers {
			if l == object {
				return true
			}
		}
	}
	return false
}

func (s *store) hasImage(manifest int32) bool {
	for _, im := range s.images {
		if im.manifest == manifest {
			return true
		}
	}
	return false
}

// keep adds an image and lets the oldest go when they are more than most.
func (s *store) keep(im image, most int) {
	s.images = append(s.images, im)
	if len(s.images) > most {
		s.images = s.images[1:]
	}
}
