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

// imageShape is of six layers: 48.5 MiB, of which the largest has 30.
const imageShape = "image/1x30m-1x8m-1x4m-1x3m-1x2m-1x1536k"

// slowLink is 20 MB/s with a round trip of 50 ms, or the same with 5 MB/s for each
// connection.
func slowLink(name string) shape.Spec {
	s := shape.Spec{RTT: 50 * time.Millisecond, Total: 20e6}
	if name == linkEach {
		s.PerConnection = 5e6
	}
	return s
}

// image pulls an image of six layers as a container engine does, three layers at a
// time, over both slow links. Where each connection is capped, a proxy can learn how
// many it needs: there each round has proxies that were just started and know
// nothing, the first image that they ever pull, and another one of the same shape.
func (b *Bench) image(ctx context.Context) error {
	for _, v := range b.Variants {
		names := append(b.only(peer.Direct), b.proxies(v)...)
		err := b.with(ctx, v, names, func(o *peer.Origin, ts []*peer.Target) error {
			return b.pullRounds(ctx, o, ts, pulls{v, linkTotal, linkTotal, imageShape, b.ColdRounds})
		})
		if err != nil {
			return err
		}
		for range b.ColdRounds {
			err := b.with(ctx, v, names, func(o *peer.Origin, ts []*peer.Target) error {
				if err := b.pullRounds(ctx, o, ts, pulls{v, linkEach, linkEachFirst, imageShape, 1}); err != nil {
					return err
				}
				return b.pullRounds(ctx, o, ts, pulls{v, linkEach, linkEachLater, imageShape, 1})
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// layer pulls an image of one large layer over the slow links. Its bound is the
// link's, so that the long pull needs no rounds; the peers that fetch a blob over one
// connection take as long as the direct way, and are left out.
func (b *Bench) layer(ctx context.Context) error {
	whole, capped := layerWhole, layerCapped
	if b.Quick {
		whole, capped = 20, 40
	}
	for _, v := range b.Variants {
		for _, c := range []struct {
			link        string
			mib, rounds int
		}{{linkTotal, whole, b.ColdRounds}, {linkEach, capped, 1}} {
			err := b.with(ctx, v, append(b.only(peer.Direct), b.subjects(v)...), func(o *peer.Origin, ts []*peer.Target) error {
				return b.pullRounds(ctx, o, ts, pulls{v, c.link, layerCase(c.mib, c.link), fmt.Sprintf("layer/1x%dm", c.mib), c.rounds})
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// pulls are rounds of cold pulls, in turn over the targets.
type pulls struct {
	variant, link, name, shape string
	rounds                     int
}

func (b *Bench) pullRounds(ctx context.Context, o *peer.Origin, ts []*peer.Target, p pulls) error {
	for range p.rounds {
		for _, t := range ts {
			if err := b.pullBoth(ctx, o, t, variantCase(p.variant, p.name), p.shape, slowLink(p.link)); err != nil {
				return fmt.Errorf("%s: %s: %w", t.Name, p.name, err)
			}
		}
	}
	return nil
}

// pullBoth pulls a fresh image cold and then warm.
func (b *Bench) pullBoth(ctx context.Context, o *peer.Origin, t *peer.Target, cas, repository string, spec shape.Spec) error {
	im, err := o.Image(ctx, repository, b.fresh("i"))
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
	n, err := idle(ctx, o)
	if err != nil {
		return err
	}
	b.add(cas, t.Name, upstreamBytes, float64(n.BlobBytes)/float64(im.Size()))
	b.add(cas, t.Name, connections, float64(n.Connections))
	if t.Name == peer.Direct {
		return nil
	}
	start = time.Now()
	if err := PullImage(ctx, t.Base, im); err != nil {
		return err
	}
	b.add(cas, t.Name, warmSeconds, time.Since(start).Seconds())
	again, err := idle(ctx, o)
	b.add(cas, t.Name, "warm, upstream bytes / size", float64(again.BlobBytes-n.BlobBytes)/float64(im.Size()))
	return err
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
				err := b.inTurn(ts, func(t *peer.Target) error { return b.smallBlobs(ctx, o, ts, t, manyCase(o.Variant, rtt), rtt) })
				if err != nil {
					return fmt.Errorf("rtt %s: %w", rtt, err)
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
