package crash_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// pace is what the load of each of the daemons aims at, in requests a second; leastRate is what it must have reached not
	// to be void. A machine of two cores takes eight of them at a time.
	pace      = 400
	leastRate = 100
	workers   = 24
)

// A load is random requests against one life of a daemon, each answer compared with the truth.
type load struct {
	t       *testing.T
	client  *client
	world   *world
	ledger  *ledger
	rng     *rand.Rand
	lenient bool // upstream fails too: an answer may be an error, never a wrong byte

	over   func() bool // if set, tells that no more requests are to be begun
	ending atomic.Bool // from now on requests may fail
	done   atomic.Int64
	failed atomic.Int64 // of done, before the end
}

// run sends requests at the pace until so many were begun, and returns while the last are under way. What was begun ends
// when ctx does; wait returns after that.
func (l *load) run(ctx context.Context, requests int) (took time.Duration, wait func()) {
	asks := make(chan ask, 4*workers)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for a := range asks {
				l.one(ctx, a)
			}
		})
	}
	began := time.Now()
	tick := time.NewTicker(time.Second / 200)
	defer tick.Stop()
	next := l.draw()
	for sent := 0; sent < requests && (l.over == nil || !l.over()); {
		out := asks
		if sent > int(time.Since(began).Seconds()*pace) {
			out = nil // it is not its time yet
		}
		select {
		case out <- next:
			sent++
			next = l.draw()
		case <-tick.C:
		}
	}
	took = time.Since(began)
	close(asks)
	return took, running.Wait
}

// linger gives the daemon a little to record, again and again, until the load is over, for a minute at most: where the disk is
// busy a checkpoint takes seconds, and it may be some checkpoints until one thread of many makes a call for the nth time.
func (l *load) linger(ctx context.Context) {
	for end := time.Now().Add(time.Minute); !l.over() && time.Now().Before(end) && ctx.Err() == nil; {
		brief, cancel := context.WithTimeout(ctx, time.Second) // one that was stopped does not answer
		l.one(brief, ask{x: l.world.newTag()})
		<-time.After(100 * time.Millisecond)
		cancel()
	}
}

// draw chooses the next request: cold blobs, hits, ranges of both, tags, some that leave in the middle.
func (l *load) draw() ask {
	known := l.world.all()
	p := l.rng.IntN(100)
	if len(known) == 0 || p < 14 {
		a := ask{x: l.world.newBlob()}
		if l.rng.IntN(8) == 0 {
			a.leave = 1 + l.rng.Int64N(a.x.size())
		}
		return a
	}
	if p < 18 {
		return ask{x: l.world.newTag()}
	}
	x := known[l.rng.IntN(len(known))]
	for i := 0; i < 3 && x.size() > 256*kib; i++ { // hits are mostly small
		x = known[l.rng.IntN(len(known))]
	}
	switch {
	case p < 24: // the youngest: joined while they are on their way
		return ask{x: known[max(0, len(known)-1-l.rng.IntN(8))]}
	case p < 30:
		return ask{x: x, head: true}
	case p < 48 && x.tag == "":
		return l.ranged(x)
	case p < 51:
		return l.ranged(l.world.newBlob())
	}
	return ask{x: x}
}

// ranged asks for up to 64 KiB anywhere in a blob.
func (l *load) ranged(x *thing) ask {
	from := l.rng.Int64N(x.size() - 1)
	return ask{x: x, from: from, to: min(x.size()-1, from+1+l.rng.Int64N(64*kib))}
}

func (l *load) one(ctx context.Context, a ask) {
	r := l.client.do(ctx, a)
	if a.to == 0 && !a.head {
		l.ledger.delivered(a.x, r.n)
	}
	l.done.Add(1)
	switch {
	case r.err == nil || l.ending.Load() && !errors.Is(r.err, errWrong):
	case l.lenient && !errors.Is(r.err, errWrong):
		l.failed.Add(1)
	default:
		l.t.Errorf("under load: %v", r.err)
	}
}
