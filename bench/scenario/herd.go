package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/proc"
	"cistern/bench/shape"
	"cistern/bench/stat"
)

// farLink is the way to the registry in most cold scenarios.
func farLink() shape.Spec { return shape.Spec{RTT: 20 * time.Millisecond, Total: 100e6} }

type herdCase struct {
	mib     int
	clients []int
}

// herd has N clients pull one cold image of one layer at the same moment, each
// over connections of its own: the manifest, then the blob.
func (b *Bench) herd(ctx context.Context) error {
	cases := []herdCase{{64, []int{1, 10, 50, 100}}, {256, []int{1, 10, 50, 100}}}
	if b.Quick {
		cases = []herdCase{{64, []int{1, 10}}}
	}
	for _, v := range b.Variants {
		err := b.with(ctx, v, append(b.only(peer.Direct), b.proxies(v)...), func(o *peer.Origin, ts []*peer.Target) error {
			for _, hc := range cases {
				for _, n := range hc.clients {
					if err := b.herdCheck(ctx, o, ts, hc.mib, n); err != nil {
						return err
					}
					for range b.ColdRounds {
						if err := b.herdRound(ctx, o, ts, hc.mib, n); err != nil {
							return err
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

func (b *Bench) herdRound(ctx context.Context, o *peer.Origin, ts []*peer.Target, size, clients int) error {
	for _, t := range ts {
		im, err := o.Image(ctx, fmt.Sprintf("herd/1x%dm", size), b.fresh("n"))
		if err != nil {
			return err
		}
		if err := link(ctx, o, farLink()); err != nil {
			return err
		}
		if err := b.herdPull(ctx, o, t, im, herdCaseName(o.Variant, size, clients), clients); err != nil {
			return fmt.Errorf("%s: %d MiB, %d clients: %w", t.Name, size, clients, err)
		}
	}
	return nil
}

// herdCheck is a round that is not timed, in which all clients check their bodies:
// for the cases in which the timed ones leave that to some.
func (b *Bench) herdCheck(ctx context.Context, o *peer.Origin, ts []*peer.Target, size, clients int) error {
	if clients <= 10 || size > 64 {
		return nil
	}
	for _, t := range ts {
		if t.Name == peer.Direct {
			continue
		}
		im, err := o.Image(ctx, fmt.Sprintf("herd/1x%dm", size), b.fresh("c"))
		if err != nil {
			return err
		}
		if err := link(ctx, o, farLink()); err != nil {
			return err
		}
		h := herd{target: t, im: im, every: 1, results: make([]pulled, clients)}
		if err := h.run(ctx); err != nil {
			return fmt.Errorf("%s: %d MiB, %d clients, all checking: %w", t.Name, size, clients, err)
		}
	}
	return nil
}

func (b *Bench) herdPull(ctx context.Context, o *peer.Origin, t *peer.Target, im origin.Image, cas string, clients int) error {
	if err := proc.ResetPeak(t.Pids); err != nil {
		return err
	}
	// A hundred clients that copy and check all they get would have the cores to
	// themselves, and the bench would measure them: of many, ten check.
	h := herd{target: t, im: im, every: max(1, clients/10), results: make([]pulled, clients)}
	// Many direct clients share the link and would take N times as long; of them
	// only the first byte is of interest.
	h.firstOnly = t.Name == peer.Direct && clients > 1
	cpu, err := cost(t, func() error { return h.run(ctx) })
	if err != nil {
		return err
	}
	n, err := o.Counters(ctx)
	if err != nil {
		return err
	}
	var first, last []float64
	for _, r := range h.results {
		first, last = append(first, ms(r.first)), append(last, r.last.Seconds())
	}
	b.add(cas, t.Name, firstSlowest, slices.Max(first))
	b.add(cas, t.Name, firstMedian, stat.Median(first))
	if h.firstOnly {
		return nil
	}
	size := float64(im.Layers[0].Size)
	b.add(cas, t.Name, upstreamBytes, float64(n.BlobBytes)/size)
	b.add(cas, t.Name, upstreamCount, float64(n.Bodies))
	b.add(cas, t.Name, lastDone, slices.Max(last)/(size/float64(farLink().Total)))
	if !t.Local() {
		return nil
	}
	b.add(cas, t.Name, "CPU s/GB delivered", cpu.Seconds()/(size*float64(clients)/gb))
	peak, err := proc.Peak(t.Pids)
	b.add(cas, t.Name, peakMemory, float64(peak)/mib)
	return err
}

// pulled is when a client had its first and its last byte, from its start.
type pulled struct{ first, last time.Duration }

type herd struct {
	target    *peer.Target
	im        origin.Image
	firstOnly bool
	// every n-th client checks its body, the others have the kernel drop theirs and
	// check the length; 0 = none checks.
	every   int
	results []pulled

	waiting  atomic.Int64  // clients without their first byte
	allFirst chan struct{} // closed when there is none
}

func (h *herd) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var ready sync.WaitGroup
	ready.Add(len(h.results))
	h.waiting.Store(int64(len(h.results)))
	h.allFirst = make(chan struct{})
	for i := range h.results {
		g.Go(func() error {
			c, err := load.New(load.Options{Base: h.target.Base})
			ready.Done()
			if err != nil {
				return err
			}
			defer c.Close()
			ready.Wait()
			h.results[i], err = h.pull(ctx, c, i)
			return err
		})
	}
	return g.Wait()
}

// sink is what a client does with its body. Where it is checked that is by CRC,
// which is nearly free, and by digest in the first client.
func (h *herd) sink(i int) load.Sink {
	if h.every == 0 || i%h.every != 0 {
		return load.Sink{Truncate: true}
	}
	return load.Sink{CRC: true, SHA256: i == 0}
}

// pull is one client's pull.
func (h *herd) pull(ctx context.Context, c *load.Client, i int) (pulled, error) {
	start, l := time.Now(), h.im.Layers[0]
	if err := getManifest(ctx, c, h.im, h.im.Tag); err != nil {
		return pulled{}, err
	}
	if h.firstOnly {
		return h.pullFirst(ctx, c, start)
	}
	got, err := get(ctx, c, blobPath(h.im, l), l, h.sink(i))
	return pulled{first: got.First.Sub(start), last: got.Last.Sub(start)}, err
}

// pullFirst reads until every client has its first byte: a link that emptied as
// clients left would be kinder to the last ones.
func (h *herd) pullFirst(ctx context.Context, c *load.Client, start time.Time) (pulled, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-h.allFirst:
			cancel()
		case <-stop:
		}
	}()
	l := h.im.Layers[0]
	got, err := get(ctx, c, blobPath(h.im, l), l, load.Sink{First: func() {
		if h.waiting.Add(-1) == 0 {
			close(h.allFirst)
		}
	}})
	if h.waiting.Load() == 0 && errors.Is(err, context.Canceled) {
		err = nil
	}
	return pulled{first: got.First.Sub(start)}, err
}
