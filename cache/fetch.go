package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"go.uber.org/zap"

	"cistern/cache/blob"
)

const (
	// lingerFor is how long a fill of which nobody wants more stays open: lazy
	// readers come back.
	lingerFor = 10 * time.Second
	// maxFailures is how many of a fill's streams may fail while others go on: in a
	// row without a byte in between, or at the same offset.
	maxFailures = 4
)

// errIdle ends a fill of parts of a blob that nobody wants more of at the moment.
var errIdle = errors.New("nobody wants more of it")

// fetch brings what is missing of a fill: by one stream, or by as many as pay, and
// what readers wait for first. The goroutine that runs the fill conducts: it plans,
// hashes what came out of order, and has large fills synced; each stream has a
// goroutine of its own, which it waits for.
type fetch struct {
	c     *Cache
	f     *fill
	in    *blob.Ingest
	sum   *prefix
	saved *saver

	ended chan *job
	wake  chan struct{} // capacity 1: it is worth another look

	mu       sync.Mutex // guards all below
	plan     plan
	pace     *pace         // of the host; nil: not known yet
	failures int           // since the last byte
	stuck    map[int64]int // failures by the offset of the byte that did not come
	whole    bool          // all of it is wanted
}

// run fetches until all is there, or nobody wants more, or it cannot go on. first
// is what comes already, if it is open.
func (p *fetch) run(first *stream) error {
	defer p.stop()
	if first.body != nil {
		p.mu.Lock()
		p.meet(first)
		p.mu.Unlock()
		end := first.last()
		if end < 0 {
			end = math.MaxInt64
		}
		j := newJob(first.off, end)
		j.s, j.part = first, first.off > 0 || first.upto >= 0
		p.start(j)
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var idle <-chan time.Time
	more := make(chan struct{})
	close(more)
	for {
		if err := p.next(); err != nil {
			return err
		}
		again, err := p.tend()
		if err != nil {
			return err
		}
		switch {
		case p.complete() && !again:
			return nil
		case p.busy():
			idle = nil
		case idle == nil:
			idle = time.After(lingerFor)
		}
		now := more
		if !again {
			now = nil
		}
		select {
		case <-now:
		case <-p.f.Asked():
		case <-p.wake:
		case j := <-p.ended:
			if err := p.done(j); err != nil {
				return err
			}
		case <-look.C:
			p.look()
		case <-idle:
			if p.f.Retire() {
				return errIdle
			}
			idle = nil
		case <-p.f.ctx.Done():
			return context.Cause(p.f.ctx)
		}
	}
}

// complete tells whether all of the blob is there.
func (p *fetch) complete() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.plan.size >= 0 && len(p.plan.jobs) == 0 && p.f.From(0) >= p.plan.size
}

// busy tells whether there is a reason to go on.
func (p *fetch) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.f.Readers() > 0 {
		return true
	}
	return !p.c.o.StopAbandoned && (p.whole || len(p.plan.jobs) > 0)
}

// next starts what is to be fetched next: nothing once the readers have been told to
// go on without.
func (p *fetch) next() error {
	if p.f.Ended() {
		return nil
	}
	wants, whole := p.f.Wants()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole = p.whole || whole
	if p.pace != nil && !p.pace.ranges() { // what comes is all of it
		p.whole, wants = true, nil
	}
	for p.plan.size >= 0 {
		p.plan.have = p.f.Have()
		if p.asks() {
			return nil
		}
		j := p.plan.want(wants)
		if j == nil && p.whole {
			j = p.plan.sweep(p.streams())
		}
		if j == nil {
			return nil
		}
		if err := p.open(j); err != nil {
			return err
		}
	}
	return nil
}

// asks tells whether a first range is asked of a host of which nobody knows whether
// it has any: it may answer each with all of the blob. mu is held.
func (p *fetch) asks() bool {
	if p.pace != nil && p.pace.proven() {
		return false
	}
	for _, j := range p.plan.jobs {
		if j.part {
			return true
		}
	}
	return false
}

// streams is how many are to fetch all that is missing; mu is held.
func (p *fetch) streams() (n int, try bool) {
	if p.pace == nil || !p.pace.ranges() {
		return 1, false
	}
	n, try = p.pace.streams(p.plan.most)
	if holes := p.plan.have.Gaps(p.plan.size); holes > n && n < p.plan.most {
		return min(holes, p.plan.most), false
	}
	return n, try
}

// open starts a stream of its own for a job; mu is held.
func (p *fetch) open(j *job) error {
	if err := p.room(j); err != nil {
		return err
	}
	j.s = newStream(p.f.ctx, p.f.repo.Source, p.f.may, p.f.digest, j.at, j.end, p.plan.size)
	j.s.first, j.part = j.wanted, true
	j.s.near = len(p.plan.jobs) > 0
	p.launch(j)
	return nil
}

// room makes room for a job whose bytes were not promised yet, and notes the pieces
// of a fill that is not written in order beside it; mu is held.
func (p *fetch) room(j *job) error {
	if j.at != p.f.From(0) || len(p.plan.jobs) > 0 {
		p.in.Track(p.plan.size)
		if err := p.in.Sparse(p.f.ctx); err != nil {
			return p.unback(err)
		}
	}
	if p.whole {
		return p.unback(p.in.Reach(p.f.ctx, p.plan.size))
	}
	return p.unback(p.in.Extend(p.f.ctx, j.at, j.end-j.at))
}

func (p *fetch) start(j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.launch(j)
}

// launch runs a job in a goroutine of its own; mu is held.
func (p *fetch) launch(j *job) {
	p.plan.jobs = append(p.plan.jobs, j)
	p.f.supply.begins()
	if p.pace != nil {
		p.counted(j)
	}
	go func() {
		defer func() {
			if v := recover(); v != nil {
				p.c.panicked("a stream of a fill", v)
				j.err = fmt.Errorf("filling %s: panic: %v", p.f.digest, v)
			}
			p.ended <- j
		}()
		j.err = p.pull(j)
	}()
}

// counted counts a job among the host's streams, but for those that somebody waits
// for: they are no matter of choice; mu is held.
func (p *fetch) counted(j *job) {
	if !j.wanted && !j.counts {
		j.counts = true
		p.pace.begins()
	}
}

// stop ends the streams and waits for them.
func (p *fetch) stop() {
	n := p.running()
	if n > 0 {
		p.f.cancel()
	}
	for range n {
		j := <-p.ended
		j.s.close()
		p.mu.Lock()
		p.drop(j)
		p.mu.Unlock()
	}
	if p.pace != nil {
		p.pace.leaves()
	}
}

func (p *fetch) running() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.plan.jobs)
}

// done takes a job that has ended off the plan, and judges how.
func (p *fetch) done(j *job) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(j)
	if j.s.size >= 0 && p.plan.size < 0 {
		p.plan.size = j.s.size
	}
	if j.err == nil {
		p.failures = 0
		p.goOn(j)
		return nil
	}
	j.s.close()
	if errors.Is(j.err, errUnbacked) {
		return errUnbacked
	}
	p.failures++
	p.stuck[j.at]++
	switch {
	case errors.Is(j.err, errNoRanges) && p.pace != nil:
		p.pace.refuses()
	case len(p.plan.jobs) == 0, p.failures > maxFailures, p.stuck[j.at] > maxFailures:
		return j.err
	case p.pace != nil && !j.wanted:
		p.pace.less(time.Now())
	}
	p.c.log.Warn("a stream of a fill failed, what it has left is fetched by another",
		zap.Stringer("digest", p.f.digest), zap.Stringer("repository", p.f.repo), zap.Int64("at", j.at), zap.Error(j.err))
	return nil
}

// drop takes a job off the plan; mu is held.
func (p *fetch) drop(j *job) {
	p.f.supply.ends()
	if j.counts {
		j.counts = false
		p.pace.ends()
	}
	for i, other := range p.plan.jobs {
		if other == j {
			p.plan.jobs = append(p.plan.jobs[:i], p.plan.jobs[i+1:]...)
			return
		}
	}
}

// goOn lets a stream whose job is done go on with the next one, if its bytes are
// what is to be fetched next; mu is held.
func (p *fetch) goOn(j *job) {
	p.plan.have = p.f.Have()
	last := j.s.last()
	if j.s.body == nil || !p.whole || last <= j.at || p.plan.size < 0 {
		j.s.close()
		return
	}
	next := p.plan.sweep(p.streams())
	if next == nil || next.at != j.s.off || next.at >= last {
		j.s.close()
		return
	}
	next.end, next.s = min(next.end, last), j.s
	p.launch(next)
}

// look has the pace of the host look at the rate.
func (p *fetch) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pace == nil {
		return
	}
	_, own := p.plan.count()
	left := int64(0)
	if p.whole && !p.f.may.full() {
		left = p.plan.spare()
	}
	p.pace.look(time.Now(), own, p.plan.most, left)
}

// tend hashes what came out of order, and has large fills synced. It tells whether
// there is more to hash at once.
func (p *fetch) tend() (more bool, err error) {
	front := p.f.From(0)
	if p.sum.upto() < front {
		buf := p.c.chunks.Get().(*[chunk]byte)
		defer p.c.chunks.Put(buf)
		if more, err = p.sum.catchUp(p.in, front, buf[:]); err != nil {
			return false, p.unback(fmt.Errorf("reading a fill again: %w", err))
		}
	}
	if err := p.saved.step(p.f.Bytes(), p.plan.size); err != nil {
		return false, p.unback(err)
	}
	return more, nil
}

func (p *fetch) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
