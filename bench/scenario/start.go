package scenario

import (
	"context"
	"fmt"
	"time"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/proc"
	"cistern/bench/shape"
)

// start fills a cache with 10,000 blobs of 4 KiB, stops the program, starts it
// again and takes the time from the exec to the end of the first hit.
func (b *Bench) start(ctx context.Context) error {
	repository := "start/10000x4k"
	if b.Quick {
		repository = "start/1000x4k"
	}
	return b.apart(ctx, peer.Plain, b.only(peer.Cistern, peer.NginxCache, peer.Floor), func(o *peer.Origin, ts []*peer.Target) error {
		im, err := o.Image(ctx, repository, b.fresh("s"))
		if err != nil {
			return err
		}
		cas := startCase(len(im.Layers))
		for _, t := range ts {
			if err := link(ctx, o, shape.Spec{}); err != nil {
				return err
			}
			begin := time.Now()
			if err := pullBlobs(ctx, t.Base, &load.Tokens{}, im, im.Layers, 16); err != nil {
				return fmt.Errorf("%s: filling: %w", t.Name, err)
			}
			b.add(cas, t.Name, "filled, blobs/s", float64(len(im.Layers))/time.Since(begin).Seconds())
			if err := sleep(ctx, settle); err != nil {
				return err
			}
		}
		for i := range b.Rounds {
			for _, t := range ts {
				// A stride that is prime to the number of blobs: another one each time.
				l := im.Layers[i*7919%len(im.Layers)]
				if err := b.restart(ctx, o, t, cas, im, l); err != nil {
					return fmt.Errorf("%s: %w", t.Name, err)
				}
			}
		}
		return nil
	})
}

func (b *Bench) restart(ctx context.Context, o *peer.Origin, t *peer.Target, cas string, im origin.Image, l origin.Layer) error {
	if err := o.Reset(ctx); err != nil {
		return err
	}
	stop, started, err := b.Fleet.Restart(ctx, t)
	if err != nil {
		return err
	}
	took, err := firstHit(ctx, t, started, blobPath(im, l), l)
	if err != nil {
		return err
	}
	n, err := o.Counters(ctx)
	if err != nil {
		return err
	}
	rss, err := proc.Resident(t.Pids)
	if err != nil {
		return err
	}
	b.add(cas, t.Name, startToHit, ms(took))
	b.add(cas, t.Name, "stop, ms", ms(stop))
	b.add(cas, t.Name, "resident then, MiB", float64(rss)/mib)
	b.add(cas, t.Name, upstreamCount, float64(n.Bodies))
	return nil
}

// firstHit pulls a blob, again and again until that works, and returns how long
// after the start it was there.
func firstHit(ctx context.Context, t *peer.Target, started time.Time, path string, l origin.Layer) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := pullOnce(ctx, t, path, l)
		if err == nil {
			return time.Since(started), nil
		}
		if serr := sleep(ctx, time.Millisecond); serr != nil {
			return 0, fmt.Errorf("no hit after the start: %w", err)
		}
	}
}
