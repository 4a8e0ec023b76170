package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cistern/bench/disk"
	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/shape"
)

// fullCap is the cap of the cache that is full.
const fullCap = 512 << 20

// evict measures what evicting costs: fills into a cache that is full against fills
// into one that is not, of the same program; then a working set six times the cap
// against nginx (through.go).
func (b *Bench) evict(ctx context.Context) error {
	return errors.Join(b.fullAgainstEmpty(ctx), b.through(ctx))
}

type fullCase struct {
	name              string
	prefill, pullEach string // shapes: what fills the cap, and one round's fills
}

func (b *Bench) fullCases() []fullCase {
	if b.Quick {
		return []fullCase{{full64K, "9000x64k", "1000x64k"}, {full1M, "540x1m", "150x1m"}}
	}
	return []fullCase{{full64K, "9000x64k", "3000x64k"}, {full1M, "540x1m", "600x1m"}}
}

// room makes a folder for caches, on a file system of its own where that can be;
// done unmounts it.
func (b *Bench) room(ctx context.Context, name string, s disk.Shape) (v *disk.Volume, done func() error, err error) {
	v, err = b.Fleet.Volume(ctx, name, s)
	if errors.Is(err, disk.ErrNoVolume) {
		b.Logf("%s: %v: the caches lie in the temporary folder, its use is not measured", b.scenario, err)
		dir, err := b.Fleet.Folder(name)
		return &disk.Volume{Dir: dir}, func() error { return nil }, err
	}
	if err != nil {
		return nil, nil, err
	}
	return v, func() error { return b.Fleet.Discard(v) }, nil
}

// fullAgainstEmpty has both daemons up and fills them in turn.
func (b *Bench) fullAgainstEmpty(ctx context.Context) error {
	if len(b.only(peer.Cistern)) == 0 {
		return nil
	}
	o, err := b.Fleet.Origin(ctx, peer.Plain)
	if err != nil {
		return err
	}
	for _, c := range b.fullCases() {
		v, done, err := b.room(ctx, "evict", disk.Shape{Size: 8 << 30})
		if err != nil {
			return err
		}
		full, err := b.Fleet.StartWith(ctx, peer.Cistern, o, peer.Setting{Cache: v.Dir + "/full", Limit: fullCap})
		if err != nil {
			return errors.Join(err, done())
		}
		empty, err := b.Fleet.StartWith(ctx, peer.Cistern, o, peer.Setting{Label: emptyPeer, Cache: v.Dir + "/empty"})
		if err != nil {
			return errors.Join(err, b.Fleet.Stop(full), done())
		}
		err = errors.Join(b.fullRounds(ctx, o, c, full, empty), b.Fleet.Stop(full), b.Fleet.Stop(empty), done())
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func (b *Bench) fullRounds(ctx context.Context, o *peer.Origin, c fullCase, full, empty *peer.Target) error {
	im, err := o.Image(ctx, "evict/"+c.prefill, b.fresh("p"))
	if err != nil {
		return err
	}
	if err := pullBlobs(ctx, full.Base, &load.Tokens{}, im, im.Layers, 16); err != nil {
		return err
	}
	if err := settled(ctx, full); err != nil {
		return err
	}
	order := []*peer.Target{full, empty}
	for range b.Rounds {
		slices.Reverse(order) // who comes second may find the disk busy with the first
		for _, t := range order {
			im, err := o.Image(ctx, "evict/"+c.pullEach, b.fresh("e"))
			if err != nil {
				return err
			}
			before, err := t.Metric(ctx, "cistern_evicted_blobs_total")
			if err != nil {
				return err
			}
			if err := b.fillRound(ctx, o, t, c.name, im, 16); err != nil {
				return fmt.Errorf("%s: %w", t.Name, err)
			}
			after, err := t.Metric(ctx, "cistern_evicted_blobs_total")
			if err != nil {
				return err
			}
			// About one in the full cache: that it is full is part of what is claimed.
			b.add(c.name, t.Name, "evicted/fill", (after-before)/float64(len(im.Layers)))
		}
	}
	return nil
}

// fillRound pulls the layers of an image and records the rate and what it cost. What
// went past the disk (no room in time) would be fast and no fill: it is told.
func (b *Bench) fillRound(ctx context.Context, o *peer.Origin, t *peer.Target, cas string, im origin.Image, clients int) error {
	if err := errors.Join(link(ctx, o, shape.Spec{}), flush(t)); err != nil {
		return err
	}
	var unbacked float64
	var err error
	if t.Admin != "" {
		if unbacked, err = t.Metric(ctx, "cistern_fills_unbacked_total"); err != nil {
			return err
		}
	}
	var took time.Duration
	cpu, err := cost(t, func() error {
		start := time.Now()
		err := pullInto(ctx, t.Base, &load.Tokens{}, im, im.Layers, clients, load.Sink{CRC: true})
		took = time.Since(start)
		return errors.Join(err, settled(ctx, t))
	})
	if err != nil {
		return err
	}
	n := float64(len(im.Layers))
	b.add(cas, t.Name, blobRate, n/took.Seconds())
	b.add(cas, t.Name, cpuBlob, us(cpu)/n)
	if t.Admin == "" {
		return nil
	}
	after, err := t.Metric(ctx, "cistern_fills_unbacked_total")
	b.add(cas, t.Name, "fills past the disk", after-unbacked)
	return err
}
