package crash_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// check compares all that the world has with what the daemon gives. What must be there is asked for with upstream cut
// off; the rest may be fetched, but no more of it than is missing.
func (d *driver) check(t *testing.T, c *client) {
	t.Helper()
	began := time.Now()
	var there, rest []*thing
	missing := map[*thing]int64{}
	for _, x := range d.world.all() {
		must, bytes := d.ledger.must(x)
		if must && !d.evicts {
			there = append(there, x)
			continue
		}
		rest = append(rest, x)
		missing[x] = bytes
	}
	d.origin.off.Store(true)
	d.all(t, c, there, "LOST after "+d.last.name)
	d.origin.off.Store(false)
	if m := d.origin.misses(); len(m) > 0 {
		t.Errorf("upstream was asked for %d things that were delivered before, the first: %s", len(m), m[0])
	}
	if t.Failed() {
		return
	}
	d.origin.sentSince()
	d.all(t, c, rest, "after "+d.last.name)
	d.tally.checked(len(there), len(rest), time.Since(began))
	d.accounts(t, missing, d.origin.sentSince())
}

// accounts compares what was fetched of each thing with what was missing of it.
func (d *driver) accounts(t *testing.T, missing, fetched map[*thing]int64) {
	t.Helper()
	unstored := 0
	for x, n := range fetched {
		if !d.evicts && float64(n) > 1.02*float64(missing[x]) {
			t.Errorf("after %s upstream sent %d bytes of %s, where %d of %d were missing", d.last.name, n, x.path(), missing[x], x.size())
		}
		lost, young := d.ledger.mayLose(x)
		if lost {
			d.tally.lost++
		}
		if young {
			unstored++
		}
		d.tally.fetched += n
		d.tally.missing += missing[x]
	}
	if d.tally.unstored += unstored; !d.evicts && unstored > workers {
		t.Errorf("after %s %d small blobs were not stored", d.last.name, unstored)
	}
}

// all asks for things, eight at once, and expects each whole.
func (d *driver) all(t *testing.T, c *client, things []*thing, what string) {
	t.Helper()
	queue := make(chan *thing)
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for x := range queue {
				if err := d.whole(t.Context(), c, x); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	for _, x := range things {
		queue <- x
	}
	close(queue)
	running.Wait()
}

// whole gets one thing. Where upstream was failing until a moment ago, it may be held for down for some seconds.
func (d *driver) whole(ctx context.Context, c *client, x *thing) error {
	for deadline := time.Now().Add(20 * time.Second); ; {
		r := c.do(ctx, ask{x: x})
		d.ledger.delivered(x, r.n)
		again := d.failing && r.status >= 500 && !errors.Is(r.err, errWrong) && time.Now().Before(deadline)
		if !again {
			return r.err
		}
		if !d.tick(ctx, 50*time.Millisecond) {
			return fmt.Errorf("%s: %w", x.path(), ctx.Err())
		}
	}
}
