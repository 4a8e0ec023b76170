package scenario

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/shape"
)

// warmPulls is how often the blob is pulled again where hits are measured.
const warmPulls = 4

// cold has one reader pull a large blob over a link without a limit, so that what the
// proxy does is all that there is, and then pull it again from the cache.
func (b *Bench) cold(ctx context.Context) error {
	size := coldSize
	if b.Quick {
		size = 64
	}
	for _, v := range b.Variants {
		err := b.with(ctx, v, b.proxies(v), func(o *peer.Origin, ts []*peer.Target) error {
			return b.inTurn(ts, func(t *peer.Target) error { return b.coldRound(ctx, o, ts, t, size) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *Bench) coldRound(ctx context.Context, o *peer.Origin, ts []*peer.Target, t *peer.Target, size int) error {
	im, err := o.Image(ctx, fmt.Sprintf("cold/1x%dm", size), b.fresh("c"))
	if err != nil {
		return err
	}
	if err := errors.Join(link(ctx, o, shape.Spec{}), b.flushAll(ts)); err != nil {
		return err
	}
	c, err := load.New(load.Options{Base: t.Base})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := getManifest(ctx, c, im, im.Tag); err != nil {
		return err
	}
	pull := func(times int) error {
		for range times {
			if _, err := get(ctx, c, blobPath(im, im.Layers[0]), im.Layers[0], load.Sink{CRC: true}); err != nil {
				return err
			}
		}
		return nil
	}
	// All that a fill costs: its digest is due before the last byte, its checkpoint after.
	err = b.spent(ctx, t, coldCase(o.Variant, size, false), im, 1, func() error {
		return errors.Join(pull(1), settled(ctx, t))
	})
	if err != nil {
		return err
	}
	return b.spent(ctx, t, coldCase(o.Variant, size, true), im, warmPulls, func() error { return pull(warmPulls) })
}

// spent records what it costs a target to deliver an image's layer so many times.
func (b *Bench) spent(ctx context.Context, t *peer.Target, cas string, im origin.Image, times int, fn func() error) error {
	var cpu time.Duration
	made, err := b.allocating(ctx, t, func() (err error) {
		cpu, err = cost(t, fn)
		return err
	})
	if err != nil || !t.Local() {
		return err
	}
	bytes := float64(im.Layers[0].Size) * float64(times)
	b.add(cas, t.Name, cpuGB, cpu.Seconds()/(bytes/gb))
	b.add(cas, t.Name, mallocsMiB, made.Count/(bytes/mib))
	b.add(cas, t.Name, mallocBytesMiB, made.Bytes/(bytes/mib))
	return nil
}

// allocating is how much a target allocates while fn runs; NaN where it does not tell.
// Telling makes it allocate, too: what one telling costs is measured before and taken off.
func (b *Bench) allocating(ctx context.Context, t *peer.Target, fn func() error) (peer.Allocations, error) {
	var at [4]peer.Allocations
	for i := range at {
		if i == len(at)-1 {
			if err := fn(); err != nil {
				return at[i], err
			}
		}
		var err error
		if at[i], err = b.allocated(ctx, t); err != nil {
			return at[i], err
		}
	}
	// The first telling is left out: it may have warmed something up.
	return between(at[1], at[2], at[3]), nil
}

// between is what came about from the second telling to the third, less what one costs
// by itself: the way from the first to the second.
func between(first, second, third peer.Allocations) peer.Allocations {
	return peer.Allocations{
		Count: max(third.Count-second.Count-(second.Count-first.Count), 0),
		Bytes: max(third.Bytes-second.Bytes-(second.Bytes-first.Bytes), 0),
	}
}

func (b *Bench) allocated(ctx context.Context, t *peer.Target) (peer.Allocations, error) {
	unknown := peer.Allocations{Count: math.NaN(), Bytes: math.NaN()}
	if t.Admin == "" {
		return unknown, nil
	}
	a, err := t.Allocations(ctx)
	if errors.Is(err, peer.ErrNoMetric) {
		b.Logf("not measured: %v", err)
		return unknown, nil
	}
	return a, err
}
