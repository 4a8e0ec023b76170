package scenario

import (
	"context"
	"fmt"
	"time"

	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/proc"
	"cistern/bench/shape"
)

// head has many readers at the head of one fill that is slower than any of them, so
// that each has to be woken for every bit of it; and the same readers of the same blob
// when it is cached.
func (b *Bench) head(ctx context.Context) error {
	readers, size := headReaders, 24
	if b.Quick {
		readers, size = 50, 8
	}
	for _, v := range b.Variants {
		err := b.with(ctx, v, b.proxies(v), func(o *peer.Origin, ts []*peer.Target) error {
			return b.inTurn(ts, func(t *peer.Target) error { return b.headRound(ctx, o, t, readers, size) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *Bench) headRound(ctx context.Context, o *peer.Origin, t *peer.Target, readers, size int) error {
	im, err := o.Image(ctx, fmt.Sprintf("head/1x%dm", size), b.fresh("h"))
	if err != nil {
		return err
	}
	if err := link(ctx, o, shape.Spec{RTT: 20 * time.Millisecond, Total: 4e6}); err != nil {
		return err
	}
	if err := b.readAll(ctx, t, im, headCase(o.Variant, readers, false), readers); err != nil {
		return err
	}
	n, err := idle(ctx, o)
	if err != nil {
		return err
	}
	b.add(headCase(o.Variant, readers, false), t.Name, upstreamBytes, float64(n.BlobBytes)/float64(im.Layers[0].Size))
	if err := settled(ctx, t); err != nil {
		return err
	}
	return b.readAll(ctx, t, im, headCase(o.Variant, readers, true), readers)
}

// readAll has so many clients read a blob at once, of whom ten check what they get.
//
// How often a reader is woken is not to be had from outside. What is: each time it is
// woken for more bytes it sends them, by a call that writes (those of the fill and of
// the runtime's poller are counted in: a few per cent of 500 readers'). Its thread goes
// to sleep only when nothing else is to do, so that context switches are fewer than
// wake-ups.
func (b *Bench) readAll(ctx context.Context, t *peer.Target, im origin.Image, cas string, readers int) error {
	h := herd{target: t, im: im, every: max(1, readers/10), results: make([]pulled, readers)}
	before, err := callsOf(t)
	if err != nil {
		return err
	}
	start := time.Now()
	cpu, err := cost(t, func() error { return h.run(ctx) })
	if err != nil {
		return err
	}
	took := time.Since(start)
	after, err := callsOf(t)
	b.add(cas, t.Name, "all done, s", took.Seconds())
	if err != nil || !t.Local() {
		return err
	}
	each := float64(readers) * took.Seconds()
	b.add(cas, t.Name, cpuGB, cpu.Seconds()/(float64(im.Layers[0].Size)*float64(readers)/gb))
	b.add(cas, t.Name, readerWrites, float64(after.writes-before.writes)/each)
	b.add(cas, t.Name, readerSleeps, float64(after.sleeps-before.sleeps)/each)
	return nil
}

// calls are what a target has done so far.
type calls struct{ writes, sleeps int64 }

// callsOf is nothing where the target runs elsewhere.
func callsOf(t *peer.Target) (c calls, err error) {
	if !t.Local() {
		return c, nil
	}
	if c.writes, err = proc.Writes(t.Pids); err != nil {
		return c, err
	}
	c.sleeps, err = proc.Switches(t.Pids)
	return c, err
}
