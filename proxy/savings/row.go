package savings

import "sync/atomic"

// Tally is what a repository, or several, cost in some time.
type Tally struct {
	Sent     uint64 `json:"sent_bytes"`     // to clients, bodies of good answers
	Received uint64 `json:"received_bytes"` // from upstream
	Asked    uint64 `json:"pulls_asked"`    // manifests that clients asked for by GET, and got
	Spent    uint64 `json:"pulls_spent"`    // manifests that upstream was asked for by GET, and gave
}

func (t Tally) plus(o Tally) Tally {
	return Tally{t.Sent + o.Sent, t.Received + o.Received, t.Asked + o.Asked, t.Spent + o.Spent}
}

// counts is a Tally that can be added to by many at once.
type counts struct{ sent, received, asked, spent atomic.Uint64 }

func (c *counts) add(t Tally) {
	if t.Sent > 0 {
		c.sent.Add(t.Sent)
	}
	if t.Received > 0 {
		c.received.Add(t.Received)
	}
	if t.Asked > 0 {
		c.asked.Add(t.Asked)
	}
	if t.Spent > 0 {
		c.spent.Add(t.Spent)
	}
}

func (c *counts) tally() Tally {
	return Tally{c.sent.Load(), c.received.Load(), c.asked.Load(), c.spent.Load()}
}

// take empties it.
func (c *counts) take() Tally {
	return Tally{c.sent.Swap(0), c.received.Swap(0), c.asked.Swap(0), c.spent.Swap(0)}
}

// week is how many days are kept apart, today among them.
const week = 7

// row is one repository. Book.mu guards it; only today is added to by many.
type row struct {
	today   counts
	earlier [week - 1]Tally // yesterday first
	before  Tally           // of all days before, and of those that a clock set back has unmade
}

// turn goes on, or back, by so many days.
func (r *row) turn(days int64) {
	for range min(days, week) {
		last := len(r.earlier) - 1
		r.before = r.before.plus(r.earlier[last])
		copy(r.earlier[1:], r.earlier[:last])
		r.earlier[0] = r.today.take()
	}
	for range min(-days, week) {
		r.before = r.before.plus(r.today.take())
		r.today.add(r.earlier[0])
		copy(r.earlier[:], r.earlier[1:])
		r.earlier[len(r.earlier)-1] = Tally{}
	}
}

// absorb adds another row to it.
func (r *row) absorb(o *row) {
	r.today.add(o.today.tally())
	for i := range r.earlier {
		r.earlier[i] = r.earlier[i].plus(o.earlier[i])
	}
	r.before = r.before.plus(o.before)
}

func (r *row) ofWeek() Tally {
	t := r.today.tally()
	for _, d := range r.earlier {
		t = t.plus(d)
	}
	return t
}

func (r *row) ofAll() Tally { return r.ofWeek().plus(r.before) }

// worth is what keeps a row in the table: its bytes, those of this week a hundred times,
// so that what is used now takes the place of what was.
func (r *row) worth() uint64 {
	all, now := r.ofAll(), r.ofWeek()
	return all.Sent + all.Received + 99*(now.Sent+now.Received)
}
