package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/stat"
)

// settle is how long targets are left alone between filling and measuring: a
// checkpoint is at most a second away.
const settle = 1500 * time.Millisecond

// ramp is how long the load runs before it is measured.
const ramp = 200 * time.Millisecond

// warmLarge measures hits on one large blob. Bodies are copied to a buffer by
// the reader (copy), as real clients do, and once more dropped in the kernel
// (truncate), where the reader costs next to nothing and the server shows.
func (b *Bench) warmLarge(ctx context.Context) error {
	repository, clients, modes := "warm/1x512m", []int{8, 32}, []bool{false, true}
	if b.Quick {
		repository, clients, modes = "warm/1x64m", []int{8}, modes[:1]
	}
	names := b.only(peer.NginxFiles, peer.FileServer, peer.Cistern, peer.NginxCache, peer.Floor)
	return b.with(ctx, peer.Plain, append(names, b.external()...), func(o *peer.Origin, ts []*peer.Target) error {
		im, err := b.warm(ctx, o, ts, repository)
		if err != nil {
			return err
		}
		for _, truncate := range modes {
			for _, n := range clients {
				for range b.Rounds {
					for _, t := range ts {
						if err := b.largeWindow(ctx, t, im, n, truncate); err != nil {
							return err
						}
					}
				}
			}
		}
		return b.countHits(ctx, o)
	})
}

// external are the addresses that the user gave.
func (b *Bench) external() []string {
	var out []string
	for _, n := range b.Peers {
		switch n {
		case peer.Direct, peer.Cistern, peer.CisternLog, peer.FileServer, peer.Floor, peer.NginxFiles, peer.NginxCache, peer.NginxLog:
		default:
			out = append(out, n)
		}
	}
	return out
}

// warm makes an image, puts it where the static peers find it and pulls it once
// through each target, digests checked.
func (b *Bench) warm(ctx context.Context, o *peer.Origin, ts []*peer.Target, repository string) (origin.Image, error) {
	im, err := o.Image(ctx, repository, "warm")
	if err != nil {
		return im, err
	}
	if err := b.Fleet.Materialise(ctx, o, im); err != nil {
		return im, err
	}
	for _, t := range ts {
		c, err := load.New(load.Options{Base: t.Base})
		if err != nil {
			return im, err
		}
		defer c.Close()
		err = errors.Join(getManifest(ctx, c, im, im.Tag), getManifest(ctx, c, im, im.Digest))
		for _, l := range im.Layers {
			if err == nil {
				_, err = get(ctx, c, blobPath(im, l), l, load.Sink{CRC: true, SHA256: true})
			}
		}
		if err != nil {
			return im, fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	if err := sleep(ctx, settle); err != nil {
		return im, err
	}
	return im, o.Reset(ctx)
}

// countHits records what the hits cost upstream: of all targets together, since
// they shared the registry, and the answer should be nothing.
func (b *Bench) countHits(ctx context.Context, o *peer.Origin) error {
	n, err := o.Counters(ctx)
	if err != nil {
		return err
	}
	b.add("all hits", "all", "upstream blob bodies", float64(n.Bodies))
	b.add("all hits", "all", "upstream manifest requests", float64(n.Requests["GET manifest"]+n.Requests["HEAD manifest"]))
	return nil
}

func (b *Bench) largeWindow(ctx context.Context, t *peer.Target, im origin.Image, clients int, truncate bool) error {
	var moved atomic.Int64
	l := im.Layers[0]
	w := window{clients: clients, length: b.Window, loop: func(ctx context.Context, _ int, c *load.Client) error {
		_, err := get(ctx, c, blobPath(im, l), l, load.Sink{Truncate: truncate, Progress: &moved})
		return err
	}, progress: moved.Load}
	r, err := w.run(ctx, t)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Name, err)
	}
	cas := largeCase(clients, truncate)
	done := float64(r.done) / gb
	b.add(cas, t.Name, rateGB, done/r.took.Seconds())
	if t.Local() {
		b.add(cas, t.Name, cpuGB, r.cpu.Seconds()/done)
	}
	return nil
}

// warmSmall measures hits on small objects over keep-alive connections.
func (b *Bench) warmSmall(ctx context.Context) error {
	clients := []int{1, 16, 64}
	if b.Quick {
		clients = []int{16, 64}
	}
	names := b.only(peer.NginxCache, peer.Cistern, peer.CisternLog, peer.NginxLog, peer.NginxFiles, peer.FileServer, peer.Floor)
	return b.with(ctx, peer.Plain, append(names, b.external()...), func(o *peer.Origin, ts []*peer.Target) error {
		im, err := b.warm(ctx, o, ts, "warm/16x4k")
		if err != nil {
			return err
		}
		var blobs []string
		for _, l := range im.Layers {
			blobs = append(blobs, blobPath(im, l))
		}
		kinds := []struct {
			name   string
			paths  []string
			length int64
		}{
			{smallBlob, blobs, im.Layers[0].Size},
			{byDigest, []string{manifestPath(im, im.Digest)}, int64(len(im.Manifest))},
			{byTag, []string{manifestPath(im, im.Tag)}, int64(len(im.Manifest))},
		}
		for _, k := range kinds {
			for _, n := range clients {
				for range b.Rounds {
					for _, t := range ts {
						if err := b.smallWindow(ctx, t, smallCase(k.name, n), n, k.paths, k.length); err != nil {
							return err
						}
					}
				}
			}
		}
		return b.countHits(ctx, o)
	})
}

func (b *Bench) smallWindow(ctx context.Context, t *peer.Target, cas string, clients int, paths []string, length int64) error {
	h := hits{clients: clients, length: min(b.Window, time.Second), next: func(client, n int) (string, int64) {
		return paths[(client+n)%len(paths)], length
	}}
	r, err := h.run(ctx, t)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", t.Name, cas, err)
	}
	b.add(cas, t.Name, requestRate, float64(r.done)/r.took.Seconds())
	if t.Local() {
		b.add(cas, t.Name, cpuRequest, us(r.cpu)/float64(r.done))
	}
	b.add(cas, t.Name, p50, stat.Percentile(r.times, 50))
	b.add(cas, t.Name, p99, stat.Percentile(r.times, 99))
	return nil
}
