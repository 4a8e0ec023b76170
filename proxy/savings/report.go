package savings

import (
	"cmp"
	"slices"
	"time"
)

// Report is a Book at a moment.
type Report struct {
	Since time.Time `json:"since"` // when counting began
	Today Period    `json:"today"` // a day of UTC
	Week  Period    `json:"week"`  // today and the six days before it
	Total Period    `json:"total"`
}

// Period is a time, and who had to do with it.
type Period struct {
	From time.Time `json:"from"`
	Tally
	Upstreams []Upstream `json:"upstreams"` // the one of which most was sent first
}

// Upstream is one upstream in a Period.
type Upstream struct {
	Name string `json:"name"`
	Tally
	Repositories []Repository `json:"repositories"` // the one of which most was sent first
	Others       Tally        `json:"others"`       // all that have no place of their own
}

// Repository is one repository of an Upstream.
type Repository struct {
	Name string `json:"name"`
	Tally
}

// Summary is a Report without names.
type Summary struct {
	Since time.Time `json:"since"`
	Today Tally     `json:"today"`
	Week  Tally     `json:"week"`
	Total Tally     `json:"total"`
}

// Summary sums up.
func (r Report) Summary() Summary {
	return Summary{r.Since, r.Today.Tally, r.Week.Tally, r.Total.Tally}
}

// Report looks at the book. Whoever counts waits for it: a few milliseconds at most.
func (b *Book) Report() Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn()
	return Report{
		Since: b.since,
		Today: b.period(midnight(b.day), func(r *row) Tally { return r.today.tally() }),
		Week:  b.period(midnight(b.day-week+1), (*row).ofWeek),
		Total: b.period(b.since, (*row).ofAll),
	}
}

// period sums up what of gives of each row. mu is held.
func (b *Book) period(from time.Time, of func(*row) Tally) Period {
	p := Period{From: from, Upstreams: []Upstream{}}
	if from.Before(b.since) {
		p.From = b.since
	}
	byName := map[string]*Upstream{}
	for k, r := range b.rows {
		t := of(r)
		if t == (Tally{}) {
			continue
		}
		p.Tally = p.Tally.plus(t)
		u := byName[k.upstream]
		if u == nil {
			u = &Upstream{Name: k.upstream, Repositories: []Repository{}}
			byName[k.upstream] = u
		}
		u.Tally = u.Tally.plus(t)
		if k.repository == "" {
			u.Others = t
		} else {
			u.Repositories = append(u.Repositories, Repository{k.repository, t})
		}
	}
	for _, u := range byName {
		slices.SortFunc(u.Repositories, func(a, b Repository) int { return cmp.Or(cmp.Compare(b.Sent, a.Sent), cmp.Compare(a.Name, b.Name)) })
		p.Upstreams = append(p.Upstreams, *u)
	}
	slices.SortFunc(p.Upstreams, func(a, b Upstream) int { return cmp.Or(cmp.Compare(b.Sent, a.Sent), cmp.Compare(a.Name, b.Name)) })
	return p
}
