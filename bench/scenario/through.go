package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cistern/bench/disk"
	"cistern/bench/origin"
	"cistern/bench/peer"
)

const (
	// throughLimit is the cap that 1.6 GiB are pushed through.
	throughLimit = 256 << 20
	// sampleEvery is how often the use of the file system is looked at.
	sampleEvery = time.Millisecond
)

// through pushes 1.6 GiB of 1 MiB blobs through a cap of 256 MiB with 32 clients, and
// watches the file system, of which each target has one. Cistern has a second without
// delayed allocation, where statfs is exact (see disk.Watch); its rate there is not
// compared with anybody's.
func (b *Bench) through(ctx context.Context) (err error) {
	o, err := b.Fleet.Origin(ctx, peer.Plain)
	if err != nil {
		return err
	}
	// In this order: the processes, then what they lie on.
	var stops, dones []func() error
	defer func() {
		for _, f := range append(stops, dones...) {
			err = errors.Join(err, f())
		}
	}()
	var all []pushed
	for _, p := range []pushed{
		{name: peer.NginxCache, cas: throughCap},
		{name: peer.Cistern, cas: throughCap},
		{name: peer.Cistern, cas: throughOnceCounted, mount: "nodelalloc"},
	} {
		if len(b.only(p.name)) == 0 {
			continue
		}
		v, done, err := b.room(ctx, "through", disk.Shape{Size: 3 << 30, Mount: p.mount})
		if err != nil {
			return err
		}
		dones = append(dones, done)
		p.volume = v
		p.target, err = b.Fleet.StartWith(ctx, p.name, o, peer.Setting{Cache: v.Dir + "/cache", Limit: throughLimit})
		if err != nil {
			return err
		}
		stops = append(stops, func() error { return b.Fleet.Stop(p.target) })
		all = append(all, p)
	}
	for range b.ColdRounds {
		for _, p := range all {
			if err := b.pushThrough(ctx, o, p); err != nil {
				return fmt.Errorf("%s: %s: %w", p.name, p.cas, err)
			}
		}
	}
	return nil
}

// pushed is a target with a file system of its own.
type pushed struct {
	name, cas, mount string
	volume           *disk.Volume
	target           *peer.Target
}

func (b *Bench) pushThrough(ctx context.Context, o *peer.Origin, p pushed) error {
	shape := "1600x1m"
	if b.Quick {
		shape = "600x1m"
	}
	im, err := o.Image(ctx, "through/"+shape, b.fresh("t"))
	if err != nil {
		return err
	}
	seen, err := b.watched(ctx, o, p, im)
	if err != nil || p.volume.Base == 0 {
		return err
	}
	over := seen.Highest - p.volume.Base - throughLimit
	b.add(p.cas, p.name, overCap, float64(throughLimit+over)/throughLimit)
	b.add(p.cas, p.name, "highest use over the cap, KiB", float64(over)/1024)
	b.add(p.cas, p.name, "samples of statfs", float64(seen.Samples))
	b.add(p.cas, p.name, "of them over the cap", float64(seen.Above))
	b.add(p.cas, p.name, "longest time over the cap, ms", ms(seen.Longest))
	return nil
}

// watched fills while the file system is watched, to the end of the checkpoint after
// the last blob.
func (b *Bench) watched(ctx context.Context, o *peer.Origin, p pushed, im origin.Image) (disk.Seen, error) {
	watch, over := context.WithCancel(ctx)
	defer over()
	var seen disk.Seen
	var werr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		seen, werr = disk.Watch(watch, p.volume.Dir, sampleEvery, p.volume.Base+throughLimit)
	}()
	err := b.fillRound(ctx, o, p.target, p.cas, im, 32)
	over()
	<-done
	return seen, errors.Join(err, werr)
}
