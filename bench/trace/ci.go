package trace

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// CI: runners pull tool images again and again, and what was built just now once or
// twice. Runners that are warm find what they want present and only check the tag;
// the others, empty as a fresh virtual machine is, pull all of it.
const (
	ciDays      = 3
	ciRepos     = 300
	ciTags      = 3
	ciRunners   = 200
	ciPipelines = 170  // an hour, at the busiest
	ciFull      = 0.04 // of jobs pull all; the others find the image present
	// ciPopular is the exponent of the tags' popularity, as it was measured for
	// manifests; ciBuilds the share of pipelines that build an image, ciBuilders the
	// exponent of which branch's, and ciAgain the share of builds that more than one
	// job pulls: these, ciFull and ciPipelines are tuned to what Targets wants.
	ciPopular  = 1.5
	ciBuilds   = 0.9
	ciBuilders = 0.4
	ciAgain    = 0.2
	// ciMoves of a tag in a day, and what share the day of new bases moves.
	ciMoves   = 30.0 / 365
	ciRebuilt = 0.4
)

// ci is scenario A.
func ci(m *maker, scale float64) {
	s := newSite(m, scale)
	s.jobs(func(at time.Duration) { s.pipeline(at) })
}

// site is a company with its own CI, while its trace is made.
type site struct {
	m       *maker
	c       *catalogue
	scale   float64
	end     time.Duration
	runners int32
	popular zipf
	ranks   []int // which tag has a rank of popularity: repository * ciTags + tag
	builder zipf
	built   map[int]image // the last build of a tag, by ranks' numbers
	builds  int
	moves   []tagMove // in the order of time
}

// tagMove is a tag that will name another image, or all bases that will have
// other layers.
type tagMove struct {
	at      time.Duration
	repo    int // of bases: -1
	tag     int
	rebuilt bool // on the new base
}

func newSite(m *maker, scale float64) *site {
	s := &site{m: m, scale: scale, end: scaled(ciDays*day, scale), built: map[int]image{}}
	s.c = newCatalogue(m, ciRepos, 0, ciTags)
	s.runners = m.clients(func(i int) string { return fmt.Sprint("runner-", i) }, ciRunners)
	s.popular, s.ranks = newZipf(ciRepos*ciTags, ciPopular), m.rng.Perm(ciRepos*ciTags)
	s.builder = newZipf(ciRepos*ciTags, ciBuilders)
	rebuild := s.end/3 + scaled(9*time.Hour, scale)
	s.moves = append(s.moves, tagMove{at: rebuild, repo: -1})
	for r := range s.c.repos {
		for tag := range s.c.repos[r].tags {
			if m.rng.Float64() < ciMoves*s.end.Hours()/24 {
				s.moves = append(s.moves, tagMove{scaled(s.end, m.rng.Float64()), r, tag, false})
			}
			if m.rng.Float64() < ciRebuilt {
				s.moves = append(s.moves, tagMove{rebuild + scaled(6*time.Hour, scale*m.rng.Float64()), r, tag, true})
			}
		}
	}
	slices.SortStableFunc(s.moves, func(a, b tagMove) int { return int(a.at - b.at) })
	return s
}

// jobs calls each at the start of every pipeline, with the tags as they are then.
func (s *site) jobs(each func(at time.Duration)) {
	s.m.arrivals(s.end, ciPipelines, s.scale, func(at time.Duration) {
		s.moveTags(at)
		each(at)
	})
}

// moveTags applies the moves up to a time.
func (s *site) moveTags(until time.Duration) {
	for len(s.moves) > 0 && s.moves[0].at <= until {
		mv := s.moves[0]
		s.moves = s.moves[1:]
		if mv.repo < 0 {
			s.c.renewBases(s.m)
			continue
		}
		tag := &s.c.repos[mv.repo].tags[mv.tag]
		if mv.rebuilt {
			*tag = s.c.rebuilt(s.m, *tag)
		} else {
			*tag = s.c.moved(s.m, *tag)
		}
	}
}

// pipeline is a burst of jobs with one tool image, and mostly a build whose outcome
// one job or a few pull.
func (s *site) pipeline(at time.Duration) {
	r := s.m.rng
	rank := s.ranks[s.popular.draw(r)]
	repo, tag := rank/ciTags, rank%ciTags
	n := min(256, max(1, int(6*math.Exp(1.4*r.NormFloat64()))))
	for range n {
		v := visit{at: at + scaled(10*time.Second, r.Float64()), client: s.runner(), repo: repo, tag: tag}
		if r.Float64() < ciFull {
			s.m.pull(v, s.c.repos[repo].tags[tag], nil)
		} else {
			s.m.check(v, s.c.repos[repo].tags[tag], r.Float64() < 0.5)
		}
	}
	if r.Float64() < ciBuilds {
		s.build(at + 2*time.Minute + scaled(10*time.Minute, r.Float64()))
	}
}

// build makes an image out of the one before it and has it pulled.
func (s *site) build(at time.Duration) {
	r := s.m.rng
	branch := s.builder.draw(r)
	repo := branch / ciTags
	im, ok := s.built[branch]
	if !ok {
		im = s.c.repos[repo].tags[branch%ciTags]
	}
	im = s.m.renewed(im, r.Float64())
	s.built[branch] = im
	s.builds++
	pulls := 1
	if r.Float64() < ciAgain {
		pulls = between(r, 2, 4)
	}
	for range pulls {
		s.m.pull(visit{at: at, client: s.runner(), repo: repo, tag: ciTags + s.builds}, im, nil)
		at += scaled(5*time.Minute, r.Float64())
	}
}

func (s *site) runner() int32 { return s.runners + int32(s.m.rng.IntN(ciRunners)) }
