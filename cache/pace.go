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

// pace is how many streams pay off at one host, of all fills together, learned from
// the rate at which these get bytes from it: each fill has the same part of them. It
// is kept as long as the process lives. Safe for concurrent use.
type pace struct {
	mu     sync.Mutex
	n      int  // streams that are known to pay
	trial  int  // as many are tried; 0: none
	most   int  // that there were in the trial
	fills  int  // that come from the host
	active int  // streams of theirs
	whole  bool // the host has no ranges
	part   bool // it has
	bytes  int64
	looked time.Time
	seen   int64   // bytes at that time
	last   float64 // rate at that time; 0: not known
	flat   bool    // it was the one before, too
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
	return p.probable(most)
}

func newPace() *pace { return &pace{n: 1} }

// got notes bytes from the host.
func (p *pace) got(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(n)
}

// joins notes one more fill that comes from the host.
func (p *pace) joins() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fills++
}

// leaves notes one less.
func (p *pace) leaves() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fills--
}

// begins notes a stream more.
func (p *pace) begins() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active++
	p.most = max(p.most, p.active)
}

// ends notes a stream less.
func (p *pace) ends() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
}

// streams is how many each fill is to be fetched by, and whether some of them are a
// trial.
func (p *pace) streams(most int) (n int, try bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.share(p.n, p.fills, most)
	if p.trial == 0 {
		return known, false
	}
	n = p.share(p.trial, p.fills, most)
	return n, n > known
}

// probable is how many one more fill will most likely be fetched by.
func (p *pace) probable(most int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.share(p.n, p.fills+1, most)
}

// share is what each of so many fills gets of n streams; mu is held.
func (p *pace) share(n, fills, most int) int {
	if p.whole {
		return 1
	}
	fills = max(1, fills)
	return max(1, min((n+fills-1)/fills, most))
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

// gives notes that the host answers a range with that range, whatever it did before.
func (p *pace) gives() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part, p.whole = true, false
}

// refuses notes that the host answers ranges with all of the blob.
func (p *pace) refuses() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole, p.n, p.trial = true, 1, 0
}

// less notes that a stream beside others failed.
func (p *pace) less(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n = max(1, p.n/2)
	p.giveUp(now)
}

// look looks at the rate, if it is time to, and begins a trial where a fill has work
// for more streams: own are its streams, of most that it may have, and left is what
// others could take from one of them.
func (p *pace) look(now time.Time, own, most int, left int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if past := now.Sub(p.looked); past >= lookEvery {
		p.measure(now, past)
	}
	// One that is known to pay and is not in use would tell nothing of others.
	if p.whole || p.trial > 0 || !p.flat || p.last >= enough || !now.After(p.until) || own >= most || p.active < p.n {
		return
	}
	if each := p.last / float64(max(1, p.active)); float64(left) > each*worth.Seconds() {
		p.trial, p.before, p.looks, p.most = 2*max(p.n, p.active), p.last, 0, p.active
	}
}

// measure looks at the rate, and at how the trial goes; mu is held.
func (p *pace) measure(now time.Time, past time.Duration) {
	rate, last := float64(p.bytes-p.seen)/past.Seconds(), p.last
	p.looked, p.seen, p.last = now, p.bytes, rate
	if past > 3*lookEvery {
		p.last, p.flat = 0, false // nobody was here: no rate
		return
	}
	p.flat = last > 0 && near(rate, last)
	if p.trial > 0 {
		p.judge(now, rate, last)
	}
}

// judge decides on a trial: at once if it pays, else when the rate has had time to
// rise.
func (p *pace) judge(now time.Time, rate, last float64) {
	p.looks++
	switch {
	case p.looks < 2:
	case min(rate, last) >= p.before*(1+pays):
		p.n, p.trial, p.doubt, p.flat = max(p.n, min(p.trial, p.most)), 0, 0, false
	case p.looks >= 5:
		p.giveUp(now)
	}
}

// giveUp ends a trial for a while; mu is held.
func (p *pace) giveUp(now time.Time) {
	p.trial, p.last, p.flat = 0, 0, false
	p.doubt = min(max(doubtAgain, 2*p.doubt), doubtMost)
	p.until = now.Add(p.doubt)
}

func near(a, b float64) bool { return max(a, b) <= min(a, b)*(1+same) }
