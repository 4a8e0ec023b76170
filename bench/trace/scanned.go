package trace

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Scanners and pollers beside the CI.
const (
	coldTags    = 500
	coldRepos   = 170
	polledTags  = 200 // by each: assumed
	scanAtOnce  = 4
	scanTime    = 5 * time.Second // for each image, beside the pull
	scannerHour = 10
)

// scanned is scenario E: A with the same seed, a scanner that pulls each image once a
// day, those of A's tags and as many cold ones, and pollers that ask for tags by HEAD.
func scanned(m *maker, scale float64) {
	s := newSite(m, scale)
	own := rand.New(rand.NewPCG(m.t.Seed, 3))
	jobs := m.rng
	m.rng = own // what A draws stays as it is in A
	cold := newCatalogue(m, coldRepos, 0, coldTags/coldRepos+1)
	m.rng = jobs
	scanner := m.clients(func(int) string { return "scanner" }, 1)
	var polls []poller
	for i, every := range []time.Duration{5 * time.Minute, time.Hour, time.Hour, day, day} {
		p := poller{every: every, next: scaled(every, own.Float64()), tags: own.Perm(ciRepos * ciTags)[:polledTags]}
		p.client = m.clients(func(int) string { return fmt.Sprint("poller-", i) }, 1)
		polls = append(polls, p)
	}
	next := scaled(scannerHour*time.Hour, scale)
	s.jobs(func(at time.Duration) {
		for at >= next {
			s.sweep(next, scanner, cold, own)
			next += scaled(day, scale)
		}
		for i := range polls {
			for p := &polls[i]; p.next <= at; p.next += p.every {
				s.poll(*p)
			}
		}
		s.pipeline(at)
	})
}

// poller asks again and again whether tags have moved.
type poller struct {
	client int32
	every  time.Duration
	next   time.Duration
	tags   []int // as in site.ranks
}

func (s *site) poll(p poller) {
	for i, tag := range p.tags {
		v := visit{at: p.next + time.Duration(i)*50*time.Millisecond, client: p.client, repo: tag / ciTags, tag: tag % ciTags, scan: true}
		s.m.pulls++
		s.m.add(v, v.at, s.c.repos[v.repo].tags[v.tag].top(), v.tag, true)
	}
}

// sweep has each image scanned, in no order.
func (s *site) sweep(at time.Duration, scanner int32, cold *catalogue, own *rand.Rand) {
	var all []visit
	for repo, r := range s.c.repos {
		for tag := range r.tags {
			all = append(all, visit{repo: repo, tag: tag})
		}
	}
	for repo, r := range cold.repos {
		for tag := range r.tags {
			if len(all) < ciRepos*ciTags+coldTags {
				all = append(all, visit{repo: ciRepos + repo, tag: tag})
			}
		}
	}
	own.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	lanes := [scanAtOnce]time.Duration{}
	for i := range lanes {
		lanes[i] = at
	}
	for i, v := range all {
		lane := &lanes[i%scanAtOnce]
		v.at, v.client, v.scan = *lane, scanner, true
		from := s.c
		if v.repo >= ciRepos {
			from = cold
		}
		repo := v.repo % ciRepos
		im := from.repos[repo].tags[v.tag]
		*lane = s.m.pull(v, im, nil) + scanTime
		if im.attestation != None {
			s.m.add(v, *lane-scanTime, im.attestation, ByDigest, false)
		}
	}
}
