package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/shape"
)

// image pulls an image of six layers (48.5 MiB, the largest 30) as a container
// engine does, three layers at a time, over 20 MB/s with a round trip of 50 ms,
// and over the same with 5 MB/s for each connection.
func (b *Bench) image(ctx context.Context) error {
	links := []struct {
		name string
		spec shape.Spec
	}{
		{linkTotal, shape.Spec{RTT: 50 * time.Millisecond, Total: 20e6}},
		{linkEach, shape.Spec{RTT: 50 * time.Millisecond, Total: 20e6, PerConnection: 5e6}},
	}
	for _, v := range b.Variants {
		err := b.with(ctx, v, append(b.only(peer.Direct), b.proxies(v)...), func(o *peer.Origin, ts []*peer.Target) error {
			for _, l := range links {
				for range b.ColdRounds {
					for _, t := range ts {
						if err := b.pullBoth(ctx, o, t, variantCase(o.Variant, l.name), l.spec); err != nil {
							return fmt.Errorf("%s: %s: %w", t.Name, l.name, err)
						}
					}
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

// pullBoth pulls a fresh image cold and then warm.
func (b *Bench) pullBoth(ctx context.Context, o *peer.Origin, t *peer.Target, cas string, spec shape.Spec) error {
	im, err := o.Image(ctx, "image/1x30m-1x8m-1x4m-1x3m-1x2m-1x1536k", b.fresh("i"))
	if err != nil {
		return err
	}
	if err := link(ctx, o, spec); err != nil {
		return err
	}
	start := time.Now()
	if err := PullImage(ctx, t.Base, im); err != nil {
		return err
	}
	b.add(cas, t.Name, coldSeconds, time.Since(start).Seconds())
	n, err := o.Counters(ctx)
	if err != nil {
		return err
	}
	b.add(cas, t.Name, upstreamBytes, float64(n.BlobBytes)/float64(im.Size()))
	if t.Name == peer.Direct {
		return nil
	}
	start = time.Now()
	if err := PullImage(ctx, t.Base, im); err != nil {
		return err
	}
	b.add(cas, t.Name, warmSeconds, time.Since(start).Seconds())
	return nil
}

// PullImage pulls an image as a container engine does: the manifest by tag, then
// the config and the layers, three at a time, over as many connections, with one
// token for all. Every digest is checked.
func PullImage(ctx context.Context, base string, im origin.Image) error {
	tokens := &load.Tokens{}
	first, err := load.New(load.Options{Base: base, Tokens: tokens})
	if err != nil {
		return err
	}
	defer first.Close()
	if err := getManifest(ctx, first, im, im.Tag); err != nil {
		return err
	}
	return pullBlobs(ctx, base, tokens, im, append(im.Layers[:len(im.Layers):len(im.Layers)], im.Config), 3)
}

// pullBlobs pulls blobs over so many connections, digests checked.
func pullBlobs(ctx context.Context, base string, tokens *load.Tokens, im origin.Image, blobs []origin.Layer, clients int) error {
	return pullInto(ctx, base, tokens, im, blobs, clients, load.Sink{CRC: true, SHA256: true})
}

// pullInto is pullBlobs with another check: a load generator that hashes all it gets
// takes cores that the proxies would have.
func pullInto(ctx context.Context, base string, tokens *load.Tokens, im origin.Image, blobs []origin.Layer, clients int, sink load.Sink) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range clients {
		g.Go(func() error {
			c, err := load.New(load.Options{Base: base, Tokens: tokens})
			if err != nil {
				return err
			}
			defer c.Close()
			for i := next.Add(1) - 1; int(i) < len(blobs); i = next.Add(1) - 1 {
				if _, err := get(ctx, c, blobPath(im, blobs[i]), blobs[i], sink); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// manySmall pulls 2,000 cold blobs of 64 KiB with 16 clients.
func (b *Bench) manySmall(ctx context.Context) error {
	for _, v := range b.Variants {
		err := b.apart(ctx, v, append(b.only(peer.Direct), b.proxies(v)...), func(o *peer.Origin, ts []*peer.Target) error {
			for _, rtt := range []time.Duration{0, 20 * time.Millisecond} {
				for range b.ColdRounds {
					for _, t := range ts {
						if err := b.smallBlobs(ctx, o, ts, t, manyCase(o.Variant, rtt), rtt); err != nil {
							return fmt.Errorf("%s: rtt %s: %w", t.Name, rtt, err)
						}
					}
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

func (b *Bench) smallBlobs(ctx context.Context, o *peer.Origin, ts []*peer.Target, t *peer.Target, cas string, rtt time.Duration) error {
	repository := "many/2000x64k"
	if b.Quick {
		repository = "many/500x64k"
	}
	im, err := o.Image(ctx, repository, b.fresh("m"))
	if err != nil {
		return err
	}
	// What the peer before has left to write back must not hit this one: Cistern
	// syncs what it stores within a second, nginx leaves that to the kernel.
	if err := errors.Join(link(ctx, o, shape.Spec{RTT: rtt}), b.flushAll(ts)); err != nil {
		return err
	}
	var took time.Duration
	// The rate is what the clients see; the CPU time is all that the blobs cost, the
	// checkpoint after the last of them included.
	cpu, err := cost(t, func() error {
		start := time.Now()
		err := pullBlobs(ctx, t.Base, &load.Tokens{}, im, im.Layers, 16)
		took = time.Since(start)
		return errors.Join(err, settled(ctx, t))
	})
	if err != nil {
		return err
	}
	n, err := o.Counters(ctx)
	if err != nil {
		return err
	}
	count := float64(len(im.Layers))
	b.add(cas, t.Name, blobRate, count/took.Seconds())
	b.add(cas, t.Name, connections, float64(n.Connections))
	b.add(cas, t.Name, "upstream bodies / blobs", float64(n.Bodies)/count)
	if t.Local() {
		b.add(cas, t.Name, cpuBlob, us(cpu)/count)
	}
	return nil
}
