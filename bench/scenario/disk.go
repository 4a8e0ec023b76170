package scenario

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"cistern/bench/disk"
	"cistern/bench/load"
	"cistern/bench/peer"
	"cistern/bench/shape"
)

// disk fills 100,000 blobs of 4 KiB through the front door and adds up the blocks of
// everything in the cache directory: blobs, folders, index.
func (b *Bench) disk(ctx context.Context) error {
	images, shapeEach := 5, "disk/20000x4k"
	if b.Quick {
		images, shapeEach = 1, "disk/5000x4k"
	}
	o, err := b.Fleet.Origin(ctx, peer.Plain)
	if err != nil {
		return err
	}
	for _, name := range b.only(peer.Cistern, peer.NginxCache) {
		v, done, err := b.room(ctx, "disk", disk.Shape{Size: 4 << 30, InodeBytes: 8 << 10})
		if err != nil {
			return err
		}
		t, err := b.Fleet.StartWith(ctx, name, o, peer.Setting{Cache: v.Dir + "/cache"})
		if err != nil {
			return errors.Join(err, done())
		}
		err = errors.Join(b.diskRatio(ctx, o, t, images, shapeEach), b.Fleet.Stop(t), done())
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (b *Bench) diskRatio(ctx context.Context, o *peer.Origin, t *peer.Target, images int, each string) error {
	if err := link(ctx, o, shape.Spec{}); err != nil {
		return err
	}
	var blobs, bytes float64
	var took time.Duration
	for i := range images {
		im, err := o.Image(ctx, each, fmt.Sprint("d", i)) // the same for all peers
		if err != nil {
			return err
		}
		start := time.Now()
		if err := pullBlobs(ctx, t.Base, &load.Tokens{}, im, im.Layers, 16); err != nil {
			return err
		}
		took += time.Since(start)
		for _, l := range im.Layers {
			blobs, bytes = blobs+1, bytes+float64(l.Size)
		}
	}
	// Until the last checkpoint is done and the disk has given out its blocks.
	if err := settled(ctx, t); err != nil {
		return err
	}
	allocated, err := disk.Allocated(t.Cache)
	if err != nil {
		return err
	}
	cas := diskCase(int(blobs))
	b.add(cas, t.Name, allocatedRatio, float64(allocated)/bytes)
	b.add(cas, t.Name, blobRate, blobs/took.Seconds())
	if t.Name != peer.Cistern {
		return nil
	}
	index, err := disk.Allocated(filepath.Join(t.Cache, "index.db"))
	b.add(cas, t.Name, "index.db, bytes/blob", float64(index)/blobs)
	known, kerr := t.Metric(ctx, "cistern_cache_blobs")
	if kerr == nil && known < blobs {
		kerr = fmt.Errorf("it knows %.0f of %.0f blobs", known, blobs)
	}
	counted, merr := t.Metric(ctx, "cistern_cache_bytes")
	b.add(cas, t.Name, "its own account / allocated", counted/float64(allocated))
	return errors.Join(err, kerr, merr)
}
