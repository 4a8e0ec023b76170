package crash_test

import (
	"sync"
	"time"
)

// afterDelivery is how many checkpoints must have ended after a delivery until its blob has to survive a power cut: one
// may have begun before it.
const afterDelivery = 2

// A small blob is answered from memory and stored after that. One that was delivered less than a second before a SIGKILL may
// not have come to it; on a machine at its limits no less than that will do.
const (
	storedLater = 256 * kib
	storedIn    = time.Second
)

// A ledger is what can be known from outside of what the daemon has stored: what it delivered whole, and how many
// checkpoints ended after that.
type ledger struct {
	mu      sync.Mutex // guards what follows
	entries map[*thing]*entry
	frozen  bool      // the power is off: what is delivered now is on no disk
	end     time.Time // the moment before the process was ended
}

type entry struct {
	whole  bool
	prefix int64 // most bytes from 0 that one answer delivered
	at     time.Time
	old    bool // it was delivered whole in an earlier life
	marked bool // mark is set: checkpoints counted soon after at
	mark   float64
	safe   bool
	lost   bool // it was delivered, and the last power cut may have taken it
	young  bool // it was delivered, and the last kill may have come before it was stored
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
	if x.size() > storedLater {
		e.prefix = max(e.prefix, n)
	}
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

// ending notes the moment in which the process is about to be ended.
func (l *ledger) ending() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = time.Now()
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
		e.young = e.whole && !e.old && !e.safe && !how.cut && !how.clean && x.tag == "" && x.size() <= storedLater && l.end.Sub(e.at) < storedIn
		switch {
		case how.clean:
			e.safe = e.whole // its last checkpoint has everything
			if how.cut && !e.whole {
				e.prefix = 0 // what is unfinished is not trusted in another boot
			}
		case how.cut && !e.safe:
			e.whole, e.prefix = false, 0
		case x.tag != "" && !e.safe:
			e.whole, e.prefix = false, 0 // tags live in records only
		case e.young:
			e.whole, e.prefix = false, 0
		}
		e.at, e.marked, e.old = time.Time{}, false, e.whole
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

// mayLose tells whether a thing had been delivered and was not yet on record when the power went, or not yet stored when
// the process was killed.
func (l *ledger) mayLose(x *thing) (lost, young bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(x)
	return e.lost, e.young
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
