package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
)

// follower has a first client start a cold 64 MiB blob and then read at 2 MiB/s,
// or leave after 1 MiB; a second one comes 250 ms later.
func (b *Bench) follower(ctx context.Context) error {
	leaders := []struct {
		name string
		sink load.Sink
	}{
		{leaderSlow, load.Sink{Rate: 2 << 20}},
		{leaderLeaves, load.Sink{Stop: 1 << 20}},
	}
	for _, v := range b.Variants {
		err := b.with(ctx, v, b.proxies(v), func(o *peer.Origin, ts []*peer.Target) error {
			for _, leader := range leaders {
				err := b.inTurn(ts, func(t *peer.Target) error {
					return b.follow(ctx, o, t, variantCase(o.Variant, leader.name), leader.sink)
				})
				if err != nil {
					return fmt.Errorf("%s: %w", leader.name, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *Bench) follow(ctx context.Context, o *peer.Origin, t *peer.Target, cas string, leader load.Sink) error {
	im, err := o.Image(ctx, "follow/1x64m", b.fresh("f"))
	if err != nil {
		return err
	}
	if err := link(ctx, o, farLink()); err != nil {
		return err
	}
	lctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var lerr error
	wg.Go(func() { lerr = lead(lctx, t, im, leader) })
	err = b.second(ctx, o, t, im, cas)
	stop()
	wg.Wait()
	if errors.Is(lerr, context.Canceled) {
		lerr = nil // the slow one, who was not waited for
	}
	return errors.Join(err, lerr)
}

func lead(ctx context.Context, t *peer.Target, im origin.Image, sink load.Sink) error {
	c, err := load.New(load.Options{Base: t.Base})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = get(ctx, c, blobPath(im, im.Layers[0]), im.Layers[0], sink)
	return err
}

func (b *Bench) second(ctx context.Context, o *peer.Origin, t *peer.Target, im origin.Image, cas string) error {
	if err := sleep(ctx, 250*time.Millisecond); err != nil {
		return err
	}
	c, err := load.New(load.Options{Base: t.Base})
	if err != nil {
		return err
	}
	defer c.Close()
	start := time.Now()
	got, err := get(ctx, c, blobPath(im, im.Layers[0]), im.Layers[0], load.Sink{CRC: true, SHA256: true})
	if err != nil {
		return err
	}
	n, err := o.Counters(ctx)
	if err != nil {
		return err
	}
	b.add(cas, t.Name, followerFirst, ms(got.First.Sub(start)))
	b.add(cas, t.Name, followerDone, got.Last.Sub(start).Seconds())
	b.add(cas, t.Name, upstreamBytes, float64(n.BlobBytes)/float64(im.Layers[0].Size))
	b.add(cas, t.Name, upstreamCount, float64(n.Bodies))
	return nil
}
