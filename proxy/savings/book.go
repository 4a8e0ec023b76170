// Package savings counts, for each repository of an upstream, the bytes that went to
// clients and those that came from upstream, the pulls that were asked for and those that
// were spent: today, in seven days, and since the installation. Its Book is written down
// once a minute.
//
// It is not for monitoring, which has metrics, and it decides nothing: a Book that is
// lost costs nothing but the knowledge of what was saved.
package savings

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Names of repositories come from clients, so there is an end to how many have a row: a
// further one has the least worthy summed up, many at once, since all are compared for
// that. A repository that was summed up begins anew when it comes again.
const (
	maxRows  = 1000
	keptRows = 750
)

// Book is safe for concurrent use. Its days are those of UTC.
type Book struct {
	keeper keeper

	// mu guards what follows. Who adds to a row's day holds it for reading, like all
	// others who do: only a new row, a new day and a report wait for them.
	mu    sync.RWMutex
	since time.Time
	day   int64 // of row.today, counted from 1970
	rows  map[key]*row
}

// key names a row. Without a repository it is that of all the others of its upstream.
type key struct{ upstream, repository string }

func (k key) others() key { return key{upstream: k.upstream} }

// New makes a book that is not written down.
func New() *Book {
	now := time.Now()
	return &Book{since: now.UTC().Truncate(time.Second), day: dayOf(now), rows: map[key]*row{}, keeper: keeper{log: zap.NewNop()}}
}

// Add counts for a repository. sure says that there is such a repository, going by what
// upstream has sent or said: nothing else makes a row, lest clients fill the table with
// names of their own. What is not sure is counted among the others of the upstream, if
// the repository has no row.
func (b *Book) Add(upstream, repository string, sure bool, t Tally) {
	k := key{upstream, repository}
	if b.addQuickly(k, sure, t) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn()
	if !sure && b.rows[k] == nil {
		k = k.others()
	}
	b.row(k).today.add(t)
}

// addQuickly is Add where the row is there, and the day is today.
func (b *Book) addQuickly(k key, sure bool, t Tally) bool {
	day := dayOf(time.Now())
	b.mu.RLock()
	defer b.mu.RUnlock()
	r := b.rows[k]
	if r == nil && !sure {
		r = b.rows[k.others()]
	}
	if r == nil || day != b.day {
		return false
	}
	r.today.add(t)
	return true
}

// row gives a row, and makes room for one that is new. mu is held.
func (b *Book) row(k key) *row {
	r := b.rows[k]
	if r == nil {
		if len(b.rows) >= maxRows && k.repository != "" {
			b.sumUp()
		}
		r = &row{}
		k.repository = strings.Clone(k.repository) // not a part of a request's address
		b.rows[k] = r
	}
	return r
}

// sumUp adds the least worthy rows to those of the others. mu is held.
func (b *Book) sumUp() {
	type ranked struct {
		key
		worth uint64
	}
	var all []ranked
	for k, r := range b.rows {
		if k.repository != "" {
			all = append(all, ranked{k, r.worth()})
		}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.worth, a.worth), cmp.Compare(a.repository, b.repository), cmp.Compare(a.upstream, b.upstream))
	})
	for _, k := range all[min(keptRows, len(all)):] {
		r := b.rows[k.key]
		delete(b.rows, k.key)
		b.row(k.others()).absorb(r)
	}
}

// turn begins a new day if there is one. The clock is read anew: whoever read it before
// may have waited for mu past midnight. It is also right for a clock that was set: what
// was counted while it was ahead is kept without a day. mu is held.
func (b *Book) turn() {
	day := dayOf(time.Now())
	if day == b.day {
		return
	}
	for _, r := range b.rows {
		r.turn(day - b.day)
	}
	b.day = day
}

// dayOf numbers the days of UTC from 1970.
func dayOf(t time.Time) int64 { return t.Unix() / (24 * 60 * 60) }

// midnight is when a day begins.
func midnight(day int64) time.Time { return time.Unix(day*24*60*60, 0).UTC() }
