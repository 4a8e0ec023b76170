package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/proc"
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
	var done atomic.Int64
	times := make([][]float64, clients)
	w := window{clients: clients, length: min(b.Window, time.Second), progress: done.Load, loop: func(ctx context.Context, i int, c *load.Client) error {
		start := time.Now()
		resp, err := c.Do(ctx, load.Request{Path: paths[(i+len(times[i]))%len(paths)], Accept: accept})
		if err != nil {
			return err
		}
		if resp.Status != 200 || resp.Length != length {
			return fmt.Errorf("status %d and %d bytes, want 200 and %d", resp.Status, resp.Length, length)
		}
		if err := c.Skip(ctx, resp); err != nil {
			return err
		}
		times[i] = append(times[i], ms(time.Since(start)))
		done.Add(1)
		return nil
	}}
	r, err := w.run(ctx, t)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", t.Name, cas, err)
	}
	var all []float64
	for _, ts := range times {
		all = append(all, ts...)
	}
	b.add(cas, t.Name, requestRate, float64(r.done)/r.took.Seconds())
	if t.Local() {
		b.add(cas, t.Name, cpuRequest, us(r.cpu)/float64(r.done))
	}
	b.add(cas, t.Name, "p50 ms", stat.Percentile(all, 50))
	b.add(cas, t.Name, "p99 ms", stat.Percentile(all, 99))
	return nil
}

// window is a load of so many clients for so long.
type window struct {
	clients       int
	receiveBuffer int // of the clients' sockets; 0 = the kernel's choice
	length        time.Duration
	loop          func(ctx context.Context, client int, c *load.Client) error // one request
	progress      func() int64
}

type windowResult struct {
	done int64
	took time.Duration
	cpu  time.Duration
}

// run starts the clients, lets them get going, and measures until the window ends.
func (w window) run(ctx context.Context, t *peer.Target) (windowResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	over := errors.New("window over")
	for i := range w.clients {
		c, err := load.New(load.Options{Base: t.Base, ReceiveBuffer: w.receiveBuffer})
		if err != nil {
			return windowResult{}, err
		}
		wg.Go(func() {
			defer c.Close()
			for ctx.Err() == nil {
				if err := w.loop(ctx, i, c); err != nil {
					cancel(err) // the first cause stays
					return
				}
			}
		})
	}
	r, err := w.measure(ctx, t)
	cancel(over)
	wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, over) {
		return r, cause
	}
	return r, err
}

func (w window) measure(ctx context.Context, t *peer.Target) (windowResult, error) {
	if err := sleep(ctx, ramp); err != nil {
		return windowResult{}, nil // the clients' error is the one to tell
	}
	var r windowResult
	cpu, err := proc.CPU(t.Pids)
	if err != nil {
		return r, err
	}
	start, before := time.Now(), w.progress()
	if err := sleep(ctx, w.length); err != nil {
		return r, nil
	}
	r.done, r.took = w.progress()-before, time.Since(start)
	after, err := proc.CPU(t.Pids)
	r.cpu = after - cpu
	return r, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
