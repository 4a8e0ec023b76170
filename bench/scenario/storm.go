package scenario

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/shape"
	"cistern/bench/stat"
)

// The hits that are timed: blobs that no daemon keeps in memory, eight clients, each
// a request every 10 ms: about a tenth of one core, so that queueing for the
// processor is not what is measured.
const (
	hitClients = 8
	hitEvery   = 10 * time.Millisecond
	hitBlobs   = "storm/1000x36k"
)

// A storm is of cold blobs of 4 KiB: paced, 300 in a second from four clients; or as
// fast as eight clients get them.
const (
	stormClients = 4
	stormEvery   = time.Second * stormClients / 300
	floodClients = 8
	stormBlobs   = "storm/3000x4k"
	floodBlobs   = "storm/20000x4k"
)

// storm measures the latency of hits beside fills. Fills cost processor time, and
// two cores are shared by all; so the same storm is also sent through another
// daemon, which takes as much of the machine and shares no lock, no index and no
// commit with the hits.
func (b *Bench) storm(ctx context.Context) error {
	if len(b.only(peer.Cistern)) == 0 {
		return nil // others can be measured with warm-small and many-small
	}
	o, err := b.Fleet.Origin(ctx, peer.Plain)
	if err != nil {
		return err
	}
	hit, err := b.Fleet.Start(ctx, peer.Cistern, o)
	if err != nil {
		return err
	}
	other, err := b.Fleet.StartWith(ctx, peer.Cistern, o, peer.Setting{Label: "another cistern"})
	if err != nil {
		return errors.Join(err, b.Fleet.Stop(hit))
	}
	err = b.storms(ctx, o, hit, other)
	return errors.Join(err, b.Fleet.Stop(other), b.slowIndex(ctx, o, hit), b.Fleet.Stop(hit))
}

// stormWindow is how long each case is measured in a round.
func (b *Bench) stormWindow() time.Duration { return 2 * b.Window }

func (b *Bench) storms(ctx context.Context, o *peer.Origin, hit, other *peer.Target) error {
	im, err := b.stock(ctx, o, hit)
	if err != nil {
		return err
	}
	for range b.Rounds {
		for _, c := range []struct {
			name string
			fill *storming
		}{
			{stormIdle, nil},
			{stormSame, &storming{target: hit, clients: stormClients, every: stormEvery}},
			{stormOther, &storming{target: other, clients: stormClients, every: stormEvery}},
			{floodSame, &storming{target: hit, clients: floodClients}},
			{floodOther, &storming{target: other, clients: floodClients}},
		} {
			if err := b.hitsBeside(ctx, o, hit, im, c.name, c.fill); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// stock has the daemon fetch the blobs that are hit, and waits for the checkpoint.
func (b *Bench) stock(ctx context.Context, o *peer.Origin, t *peer.Target) (origin.Image, error) {
	im, err := o.Image(ctx, hitBlobs, "hit")
	if err != nil {
		return im, err
	}
	if err := pullBlobs(ctx, t.Base, &load.Tokens{}, im, im.Layers, 8); err != nil {
		return im, err
	}
	return im, settled(ctx, t)
}

// storming is a stream of fills of blobs that nobody has asked for.
type storming struct {
	target  *peer.Target
	clients int
	every   time.Duration // between the starts of two fills of one client; 0 = no pause

	im   origin.Image
	all  bool // ends with the last blob; otherwise there must be enough
	next atomic.Int64
}

// run fills until ctx ends, and returns how many fills were done.
func (s *storming) run(ctx context.Context) (int64, error) {
	var done atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for i := range s.clients {
		g.Go(func() error {
			c, err := load.New(load.Options{Base: s.target.Base})
			if err != nil {
				return err
			}
			defer c.Close()
			due := begin.Add(s.every * time.Duration(i) / time.Duration(s.clients))
			for ; sleep(gctx, time.Until(due)) == nil; due = due.Add(s.every) {
				n := int(s.next.Add(1) - 1)
				if n >= len(s.im.Layers) && s.all {
					return nil
				}
				if n >= len(s.im.Layers) {
					return fmt.Errorf("the storm has used up its %d blobs", n)
				}
				l := s.im.Layers[n]
				if _, err := get(gctx, c, blobPath(s.im, l), l, load.Sink{CRC: true}); err != nil {
					if gctx.Err() != nil {
						return nil // it ends in the middle of a blob
					}
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := g.Wait()
	return done.Load(), err
}

// Fills are a storm from a process of its own, and its flags.
type Fills struct {
	Target     string // base URL
	Control    string // of the synthetic registry behind it
	Repository string
	Tag        string
	Clients    int
	Every      time.Duration // between the starts of two fills of one client; 0 = no pause
}

// Run fills until ctx ends.
func (f Fills) Run(ctx context.Context) error {
	im, err := origin.Control{Base: f.Control}.Image(ctx, f.Repository, f.Tag)
	if err != nil {
		return err
	}
	s := storming{target: &peer.Target{Base: f.Target}, clients: f.Clients, every: f.Every, im: im}
	_, err = s.run(ctx)
	return err
}

func (f Fills) args() []string {
	return []string{"fills", "--target", f.Target, "--control", f.Control, "--repository", f.Repository, "--tag", f.Tag,
		"--clients", strconv.Itoa(f.Clients), "--every", f.Every.String()}
}

// hitsBeside times hits while a storm rages; nil: while nothing does.
func (b *Bench) hitsBeside(ctx context.Context, o *peer.Origin, t *peer.Target, im origin.Image, cas string, s *storming) error {
	if err := b.calm(ctx, o, t); err != nil {
		return err
	}
	h := b.stockHits(im)
	if s == nil {
		got, err := h.run(ctx, t)
		if err != nil {
			return err
		}
		b.addHits(cas, t, got)
		return nil
	}
	var err error
	repository := stormBlobs
	if s.every == 0 {
		repository = floodBlobs
	}
	if s.im, err = o.Image(ctx, repository, b.fresh("s")); err != nil {
		return err
	}
	stormCtx, over := context.WithCancel(ctx)
	defer over()
	var got latencies
	g, gctx := errgroup.WithContext(stormCtx)
	var fills int64
	start := time.Now()
	g.Go(func() (err error) {
		fills, err = s.run(gctx)
		return err
	})
	g.Go(func() (err error) {
		defer over()
		if err := sleep(gctx, ramp); err != nil {
			return nil // the storm's error is the one to tell
		}
		got, err = h.run(gctx, t)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	b.addHits(cas, t, got)
	b.add(cas, t.Name, "fills/s meanwhile", float64(fills)/time.Since(start).Seconds())
	return nil
}

// stockHits are hits on what stock has fetched.
func (b *Bench) stockHits(im origin.Image) hits {
	return hits{clients: hitClients, every: hitEvery, length: b.stormWindow(), next: func(client, n int) (string, int64) {
		// A stride that is prime to the number of blobs: all of them, in no order.
		l := im.Layers[(client*131+n*619)%len(im.Layers)]
		return blobPath(im, l), l.Size
	}}
}

// calm waits until nothing of the case before is under way: requests to the
// registry, and a checkpoint.
func (b *Bench) calm(ctx context.Context, o *peer.Origin, t *peer.Target) error {
	if err := link(ctx, o, shape.Spec{}); err != nil {
		return err
	}
	return settled(ctx, t)
}

func (b *Bench) addHits(cas string, t *peer.Target, got latencies) {
	b.add(cas, t.Name, p50, stat.Percentile(got.times, 50))
	b.add(cas, t.Name, p99, stat.Percentile(got.times, 99))
	b.add(cas, t.Name, "worst ms", stat.Percentile(got.times, 100))
	b.add(cas, t.Name, "hits/s", float64(got.done)/got.took.Seconds())
}
