package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cistern/bench/peer"
)

// syncs counts the fsyncs of 1,000 small fills, by what they were of: blobs, folders,
// the index. Once as fast as 16 clients fetch them, once at 100 in a second, as they
// come in when somebody works.
func (b *Bench) syncs(ctx context.Context) (err error) {
	if len(b.only(peer.Cistern)) == 0 {
		return nil
	}
	strace := tracer(ctx)
	if strace == "" {
		b.Logf("syncs: no strace here: not measured")
		return nil
	}
	o, err := b.Fleet.Origin(ctx, peer.Plain)
	if err != nil {
		return err
	}
	folder, err := b.Fleet.Folder("strace")
	if err != nil {
		return err
	}
	log := filepath.Join(folder, "syncs")
	t, err := b.Fleet.StartWith(ctx, peer.Cistern, o, peer.Setting{Wrapper: traced(strace, log)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Fleet.Stop(t)) }()
	for _, c := range []struct {
		name  string
		every time.Duration
	}{{syncsFast, 0}, {syncsPaced, 160 * time.Millisecond}} {
		if b.Quick && c.every > 0 {
			continue
		}
		if err := b.countSyncs(ctx, o, t, c.name, c.every, log); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// countSyncs fills 1,000 blobs and counts what the log has grown by when the
// checkpoint after the last is done.
func (b *Bench) countSyncs(ctx context.Context, o *peer.Origin, t *peer.Target, cas string, every time.Duration, log string) error {
	im, err := o.Image(ctx, "syncs/1000x16k", b.fresh("y"))
	if err != nil {
		return err
	}
	if err := settled(ctx, t); err != nil {
		return err
	}
	before, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	points, err := t.Metric(ctx, "cistern_checkpoints_total")
	if err != nil {
		return err
	}
	s := storming{target: t, clients: 16, every: every, im: im, all: true}
	if _, err := s.run(ctx); err != nil {
		return err
	}
	if err := settled(ctx, t); err != nil {
		return err
	}
	after, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	more, err := t.Metric(ctx, "cistern_checkpoints_total")
	if err != nil {
		return err
	}
	n := float64(len(im.Layers))
	c := classify(string(after[len(before):]), t.Cache)
	b.add(cas, t.Name, syncsBlob, float64(c.index+c.blobs+c.folders)/n)
	b.add(cas, t.Name, "of blobs", float64(c.blobs)/n)
	b.add(cas, t.Name, "of folders", float64(c.folders)/n)
	b.add(cas, t.Name, "of index.db", float64(c.index)/n)
	b.add(cas, t.Name, "fsyncs of index.db in all", float64(c.index))
	b.add(cas, t.Name, "sync_file_range/blob (starts writing, waits for nothing)", float64(c.ranges)/n)
	b.add(cas, t.Name, "checkpoints", more-points)
	return nil
}

// syncCalls are counts of system calls.
type syncCalls struct {
	index, blobs, folders int // fsync and fdatasync, by what of
	ranges                int // sync_file_range, which makes nothing durable
}

// classify counts the calls of a log by the kind of file below a cache directory:
// blobs have names of 64 digits, folders are the rest.
func classify(log, cache string) syncCalls {
	var c syncCalls
	for line := range strings.Lines(log) {
		call, rest, ok := strings.Cut(line, "<"+cache)
		name, _, end := strings.Cut(rest, ">")
		switch base := filepath.Base(name); {
		case !ok || !end || strings.Contains(line, " resumed>"):
			// Not of the cache, or the end of a call whose beginning was counted.
		case strings.Contains(call, "sync_file_range"):
			c.ranges++
		case base == "index.db":
			c.index++
		case len(base) >= 64:
			c.blobs++
		default:
			c.folders++
		}
	}
	return c
}
