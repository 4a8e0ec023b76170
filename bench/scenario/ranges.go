package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/shape"
	"cistern/bench/stat"
)

// rangesRTT is the way to the registry where ranges are read; nothing limits the rate.
const rangesRTT = 20 * time.Millisecond

// rangeReaders ask at once where there are many ranges.
const rangeReaders = 16

// ranges reads cold blobs as lazy snapshotters do: many ranges by several clients,
// and few by one. All targets of a round are asked for the same ranges of one blob.
func (b *Bench) ranges(ctx context.Context) error {
	many, few := rangesLoad{manyCount, manySize}, rangesLoad{fewCount, fewSize}
	if b.Quick {
		many, few = rangesLoad{200, 64}, rangesLoad{20, 32}
	}
	for _, v := range b.Variants {
		err := b.with(ctx, v, append(b.only(peer.Direct), b.proxies(v)...), func(o *peer.Origin, ts []*peer.Target) error {
			for i := range b.ColdRounds {
				r := rand.New(rand.NewPCG(uint64(i), 0))
				if err := b.rangesRound(ctx, o, ts, many, spansAnywhere(r, many.size(), many.count), b.manyRanges); err != nil {
					return err
				}
				if err := b.rangesRound(ctx, o, ts, few, spansApart(r, few.size(), few.count), b.fewRanges); err != nil {
					return err
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

// rangesLoad is how many ranges of how large a blob.
type rangesLoad struct{ count, mib int }

func (l rangesLoad) size() int64 { return int64(l.mib) * mib }

// rangesRun is what one target is asked for.
type rangesRun struct {
	cas    string
	target *peer.Target
	im     origin.Image
	spans  []span
	want   [][]byte
	// compared is how many bytes came and were right.
	compared atomic.Int64
}

// get reads the i-th range.
func (r *rangesRun) get(ctx context.Context, c *load.Client, i int) (load.Got, error) {
	l := r.im.Layers[0]
	got, err := getSpan(ctx, c, blobPath(r.im, l), l, r.spans[i], r.want[i])
	r.compared.Add(got.Bytes)
	return got, err
}

func (b *Bench) rangesRound(ctx context.Context, o *peer.Origin, ts []*peer.Target, l rangesLoad, spans []span, read func(context.Context, *peer.Origin, *rangesRun) error) error {
	im, err := o.Image(ctx, fmt.Sprintf("ranges/1x%dm", l.mib), b.fresh("r"))
	if err != nil {
		return err
	}
	want, err := trueBytes(ctx, o, blobPath(im, im.Layers[0]), spans)
	if err != nil {
		return err
	}
	for _, t := range ts {
		if err := link(ctx, o, shape.Spec{RTT: rangesRTT}); err != nil {
			return err
		}
		run := rangesRun{cas: rangesCase(o.Variant, l.count, l.mib), target: t, im: im, spans: spans, want: want}
		if err := read(ctx, o, &run); err != nil {
			return fmt.Errorf("%s: %s: %w", t.Name, run.cas, err)
		}
		b.add(run.cas, t.Name, bytesCompared, float64(run.compared.Load())/mib)
	}
	return nil
}

// manyRanges has several clients read the ranges in order.
func (b *Bench) manyRanges(ctx context.Context, o *peer.Origin, r *rangesRun) error {
	times := make([]float64, len(r.spans))
	tokens := &load.Tokens{}
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range rangeReaders {
		g.Go(func() error {
			return r.reader(gctx, tokens, func(c *load.Client) error {
				for i := next.Add(1) - 1; int(i) < len(r.spans); i = next.Add(1) - 1 {
					start := time.Now()
					got, err := r.get(gctx, c, int(i))
					if err != nil {
						return err
					}
					times[i] = ms(got.Last.Sub(start))
				}
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	n, err := idle(ctx, o)
	if err != nil {
		return err
	}
	isNew, touched := firstTouches(r.spans, r.im.Layers[0].Size)
	var fresh, old []float64
	for i, ms := range times {
		if isNew[i] {
			fresh = append(fresh, ms)
		} else {
			old = append(old, ms)
		}
	}
	name := r.target.Name
	b.add(r.cas, name, bytesPieces, float64(n.BlobBytes)/float64(touched))
	b.add(r.cas, name, pieceNewP50, stat.Percentile(fresh, 50))
	b.add(r.cas, name, pieceNewP99, stat.Percentile(fresh, 99))
	b.add(r.cas, name, pieceOldP50, stat.Percentile(old, 50))
	return nil
}

// fewRanges has one client read the ranges one after the other.
func (b *Bench) fewRanges(ctx context.Context, o *peer.Origin, r *rangesRun) error {
	var trips []float64
	err := r.reader(ctx, &load.Tokens{}, func(c *load.Client) error {
		for i := range r.spans {
			start := time.Now()
			got, err := r.get(ctx, c, i)
			if err != nil {
				return err
			}
			trips = append(trips, float64(got.First.Sub(start))/float64(rangesRTT))
		}
		return nil
	})
	if err != nil {
		return err
	}
	n, err := idle(ctx, o)
	if err != nil {
		return err
	}
	name := r.target.Name
	b.add(r.cas, name, upstreamBytes, float64(n.BlobBytes)/float64(r.im.Layers[0].Size))
	b.add(r.cas, name, firstTripsP50, stat.Median(trips))
	b.add(r.cas, name, firstTripsVery, trips[0])
	b.add(r.cas, name, firstTripsMax, slices.Max(trips))
	return nil
}

// reader is a client that has pulled the manifest, as all do before they read: so it
// has a connection, and its token.
func (r *rangesRun) reader(ctx context.Context, tokens *load.Tokens, read func(*load.Client) error) error {
	c, err := load.New(load.Options{Base: r.target.Base, Tokens: tokens})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := getManifest(ctx, c, r.im, r.im.Tag); err != nil {
		return err
	}
	return read(c)
}
