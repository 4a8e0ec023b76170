package cache

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// lookEvery is how often the rate of a host is looked at. Of two looks in a row
	// with the same rate it is flat.
	lookEvery = 100 * time.Millisecond
	// same is by how much two rates differ at most that are the same.
	same = 0.15
	// enough is a rate at which no more streams are tried, in bytes per second: each
	// trial takes a part from a stream that may be bringing it already.
	enough = 64e6
	// worth is for how long a stream must have work left for it to be worth a trial.
	worth = 2 * time.Second
	// pays is by how much more streams must raise the host's rate to be kept.
	pays = 0.2
	// doubtAgain is how long streams that did not pay are not tried again; each
	// time twice as long, up to doubtMost.
	doubtAgain = 30 * time.Second
	doubtMost  = 30 * time.Minute
)

// pace is how many streams a blob pays off at one host, learned from the rate at
// which all fills together get bytes from it. It is kept as long as the process
// lives. Safe for concurrent use.
type pace struct {
	mu     sync.Mutex
	n      int  // streams for a blob
	tried  bool // n is double of what is known to pay
	whole  bool // the host has no ranges
	part   bool // it has
	bytes  int64
	looked time.Time
	seen   int64   // bytes at that time
	last   float64 // rate at that time; 0: not known
	before float64 // what the rate was when the trial began
	looks  int     // since the trial began
	doubt  time.Duration
	until  time.Time
}

// pacesKept is for how many hosts it is remembered what pays.
const pacesKept = 1024

// paces are those of all hosts, and which of them an upstream's blobs came from
// last. Safe for concurrent use.
type paces struct {
	hosts, last *lru.Cache[string, *pace]
}

func newPaces() paces {
	// The sizes are constants above zero: New cannot fail.
	hosts, _ := lru.New[string, *pace](pacesKept)
	last, _ := lru.New[string, *pace](pacesKept)
	return paces{hosts, last}
}

// of gives the pace of a host that sends an upstream's blobs.
func (ps paces) of(upstream, host string) *pace {
	now := newPace()
	if known, ok, _ := ps.hosts.PeekOrAdd(host, now); ok {
		now = known
	}
	ps.last.Add(upstream, now)
	return now
}

// probable is how many streams a blob of an upstream will most likely pay.
func (ps paces) probable(upstream string, most int) int {
	p, ok := ps.last.Get(upstream)
	if !ok {
		return 1
	}
	n, try := p.streams(most)
	if try {
		n /= 2
	}
	return n
}

func newPace() *pace { return &pace{n: 1} }

// got notes bytes from the host.
func (p *pace) got(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(n)
}

// streams is how many a blob is to be fetched by, and whether the last half of
// them is a trial.
func (p *pace) streams(most int) (n int, try bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.whole {
		return 1, false
	}
	return max(1, min(p.n, most)), p.tried && p.n <= most
}

// ranges tells whether the host has them, as far as is known.
func (p *pace) ranges() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.whole
}

// proven tells whether it is known whether the host has ranges.
func (p *pace) proven() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.part || p.whole
}

// gives notes that the host answers a range with that range.
func (p *pace) gives() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part = true
}

// refuses notes that the host answers ranges with all of the blob.
func (p *pace) refuses() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole, p.n, p.tried = true, 1, false
}

// less notes that a stream beside others failed.
func (p *pace) less(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n = max(1, p.n/2)
	p.giveUp(now)
}

// look looks at the rate, if it is time to. most bounds the streams of a blob; left
// is what others could take from a stream of the fill that looks, 0 if not all of
// its streams are at work.
func (p *pace) look(now time.Time, most int, left int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	past := now.Sub(p.looked)
	if past < lookEvery {
		return
	}
	rate := float64(p.bytes-p.seen) / past.Seconds()
	last := p.last
	p.looked, p.seen, p.last = now, p.bytes, rate
	if past > 3*lookEvery {
		p.last = 0 // nobody was here: no rate
		return
	}
	switch {
	case p.tried:
		p.judge(now, rate, last)
	case float64(left) > rate*worth.Seconds() && !p.whole && 2*p.n <= most && last > 0 && rate < enough && near(rate, last) && now.After(p.until):
		p.n, p.tried, p.before, p.looks = 2*p.n, true, max(rate, last), 0
	}
}

// judge decides on a trial: at once if it pays, else when the rate has had time to
// rise.
func (p *pace) judge(now time.Time, rate, last float64) {
	p.looks++
	switch {
	case p.looks < 2:
	case min(rate, last) >= p.before*(1+pays):
		p.tried, p.doubt = false, 0
	case p.looks >= 5:
		p.n /= 2
		p.giveUp(now)
	}
}

// giveUp ends a trial for a while; mu is held.
func (p *pace) giveUp(now time.Time) {
	p.tried, p.last = false, 0
	p.doubt = min(max(doubtAgain, 2*p.doubt), doubtMost)
	p.until = now.Add(p.doubt)
}

func near(a, b float64) bool { return max(a, b) <= min(a, b)*(1+same) }
