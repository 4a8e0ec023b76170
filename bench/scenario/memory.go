package scenario

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/proc"
)

// memory records the highest resident memory under three loads. Each target is
// started afresh for each load, so that no earlier one shows.
func (b *Bench) memory(ctx context.Context) error {
	if b.Quick {
		b.Logf("memory: left out in a quick run")
		return nil
	}
	for range b.ColdRounds {
		for _, c := range []struct {
			name string
			load func(*Bench, context.Context, *peer.Origin, *peer.Target) error
		}{
			{fast32, (*Bench).fastReaders},
			{slow200, (*Bench).slowReaders},
			{giant100, (*Bench).coldGiant},
		} {
			for _, name := range append(b.only(peer.Cistern, peer.NginxCache, peer.Floor), b.external()...) {
				err := b.with(ctx, peer.Plain, []string{name}, func(o *peer.Origin, ts []*peer.Target) error {
					if !ts[0].Local() {
						return nil
					}
					if err := c.load(b, ctx, o, ts[0]); err != nil {
						return fmt.Errorf("%s: %s: %w", name, c.name, err)
					}
					peak, err := proc.Peak(ts[0].Pids)
					b.add(c.name, name, peakMemory, float64(peak)/mib)
					return err
				})
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// warmed pulls the image through the target once and starts a new peak.
func (b *Bench) warmed(ctx context.Context, o *peer.Origin, t *peer.Target, repository string) (origin.Image, error) {
	im, err := o.Image(ctx, repository, "warm")
	if err != nil {
		return im, err
	}
	if err := pullOnce(ctx, t, blobPath(im, im.Layers[0]), im.Layers[0]); err != nil {
		return im, err
	}
	if err := sleep(ctx, settle); err != nil {
		return im, err
	}
	return im, proc.ResetPeak(t.Pids)
}

func (b *Bench) fastReaders(ctx context.Context, o *peer.Origin, t *peer.Target) error {
	im, err := b.warmed(ctx, o, t, "warm/1x512m")
	if err != nil {
		return err
	}
	return b.readers(ctx, t, im, 32, 0, 4*time.Second)
}

func (b *Bench) slowReaders(ctx context.Context, o *peer.Origin, t *peer.Target) error {
	im, err := b.warmed(ctx, o, t, "warm/1x256m")
	if err != nil {
		return err
	}
	return b.readers(ctx, t, im, 200, 64<<10, 6*time.Second)
}

// readers has so many clients read a blob over and over at a rate. Slow ones
// have small windows, as a slow network would give them: otherwise the kernel
// takes megabytes for each and the proxy is done with them.
func (b *Bench) readers(ctx context.Context, t *peer.Target, im origin.Image, clients int, rate int64, length time.Duration) error {
	var moved atomic.Int64
	l := im.Layers[0]
	w := window{clients: clients, length: length, progress: moved.Load, loop: func(ctx context.Context, _ int, c *load.Client) error {
		_, err := get(ctx, c, blobPath(im, l), l, load.Sink{Rate: rate, Progress: &moved})
		return err
	}}
	if rate > 0 {
		w.receiveBuffer = 64 << 10
	}
	r, err := w.run(ctx, t)
	if err != nil {
		return err
	}
	if want := float64(rate) * float64(clients) * length.Seconds(); rate > 0 && float64(r.done) < want*0.8 {
		return fmt.Errorf("readers got %d bytes, want about %.0f", r.done, want)
	}
	return nil
}

func (b *Bench) coldGiant(ctx context.Context, o *peer.Origin, t *peer.Target) error {
	im, err := o.Image(ctx, "giant/1x1g", b.fresh("g"))
	if err != nil {
		return err
	}
	if err := link(ctx, o, farLink()); err != nil {
		return err
	}
	if err := proc.ResetPeak(t.Pids); err != nil {
		return err
	}
	h := herd{target: t, im: im, results: make([]pulled, 100)}
	if err := h.run(ctx); err != nil {
		return err
	}
	n, err := o.Counters(ctx)
	b.add(giant100, t.Name, upstreamCount, float64(n.Bodies))
	return err
}
