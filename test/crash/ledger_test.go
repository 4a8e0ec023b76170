package crash_test

import (
	"sync"
	"time"
)

// afterDelivery is how many checkpoints must have ended after a delivery until its blob has to survive a power cut: one
// may have begun before it.
const afterDelivery = 2

// A ledger is what can be known from outside of what the daemon has stored: what it delivered whole, and how many
// checkpoints ended after that.
type ledger struct {
	mu      sync.Mutex // guards what follows
	entries map[*thing]*entry
	frozen  bool // the power is off: what is delivered now is on no disk
}

type entry struct {
	whole  bool
	prefix int64 // most bytes from 0 that one answer delivered
	at     time.Time
	marked bool // mark is set: checkpoints counted soon after at
	mark   float64
	safe   bool
	lost   bool // it was delivered, and the last power cut may have taken it
}

func newLedger() *ledger { return &ledger{entries: map[*thing]*entry{}} }

func (l *ledger) entry(x *thing) *entry {
	e := l.entries[x]
	if e == nil {
		e = &entry{}
		l.entries[x] = e
	}
	return e
}

// delivered notes an answer that brought right bytes from 0 to n.
func (l *ledger) delivered(x *thing, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen {
		return
	}
	e := l.entry(x)
	e.prefix = max(e.prefix, n)
	if n == x.size() && (!e.whole || e.at.IsZero()) {
		e.whole, e.at = true, time.Now()
	}
}

// checkpoints notes the daemon's count of checkpoints, asked for at the given time.
func (l *ledger) checkpoints(asked time.Time, count float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen {
		return
	}
	for _, e := range l.entries {
		switch {
		case !e.whole || e.safe || e.at.IsZero():
		case e.marked && count >= e.mark+afterDelivery:
			e.safe = true
		case !e.marked && e.at.Before(asked):
			e.marked, e.mark = true, count
		}
	}
}

// freeze ends the noting, at the moment of a power cut.
func (l *ledger) freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = true
}

// ended draws the conclusions from the way in which the daemon ended, for the next one: its count of checkpoints starts
// again, and what it has in no record it must be seen to deliver first.
func (l *ledger) ended(how ending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = false
	for x, e := range l.entries {
		e.lost = e.whole && !e.safe && how.cut && !how.clean
		switch {
		case how.clean:
			e.safe = e.whole // its last checkpoint has everything
		case how.cut && !e.safe:
			e.whole, e.prefix = false, 0
		case x.tag != "" && !e.safe:
			e.whole, e.prefix = false, 0 // tags live in records only
		}
		e.at, e.marked = time.Time{}, false
	}
}

// must tells whether a thing has to be there without upstream, and if not, how many of its bytes may be fetched.
func (l *ledger) must(x *thing) (there bool, missing int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(x)
	if e.whole {
		return true, 0
	}
	return false, x.size() - e.prefix
}

// mayLose tells whether a thing had been delivered and was not yet on record when the power went.
func (l *ledger) mayLose(x *thing) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entry(x).lost
}

// counts are the things that must be there, those among them that are on record, and those delivered in part.
func (l *ledger) counts() (whole, safe, partial int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		switch {
		case e.safe:
			safe++
			whole++
		case e.whole:
			whole++
		case e.prefix > 0:
			partial++
		}
	}
	return whole, safe, partial
}
