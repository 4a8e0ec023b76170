// Package scenario holds what the bench does to a proxy: each scenario puts a
// kind of load on several targets in turn and records what came of it. Targets
// are started by package peer; the verdict on the figures is figures.go here.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"cistern/bench/disk"
	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/proc"
	"cistern/bench/report"
	"cistern/bench/shape"
)

// Bench is one run: the fleet, the record and how thorough to be.
type Bench struct {
	Fleet   *peer.Fleet
	Samples *report.Samples
	// Peers are the names of what to measure, in order.
	Peers []string
	// Variants are the registries to measure cold pulls with.
	Variants []string
	// Rounds is how often warm measurements are repeated, in turn over the peers;
	// ColdRounds the same for cold ones.
	Rounds, ColdRounds int
	// Window is how long a throughput is measured.
	Window time.Duration
	// Quick leaves out the largest cases: figures that need them are not measured.
	Quick bool
	// ScaleBlobs is how many blobs the scenario scale has; 0 = a million.
	ScaleBlobs int
	// KeepScale is a folder that keeps these blobs from one run to the next; "" =
	// they are made anew. KeepIndex keeps the daemon's index of them, too, so that
	// nothing is adopted and the rate of that not measured.
	KeepScale string
	KeepIndex bool
	// Logf tells the user what is going on.
	Logf func(format string, args ...any)

	scenario string // that runs
	serial   int    // makes tags that no cache has seen
}

// Scenario is one kind of load.
type Scenario struct {
	Name  string
	About string
	run   func(*Bench, context.Context) error
}

// All returns the scenarios in the order in which they run.
func All() []Scenario {
	return []Scenario{
		{"warm-large", "a cached 512 MiB blob, 8 and 32 clients", (*Bench).warmLarge},
		{"warm-small", "cached manifests and 4 KiB blobs, 1, 16 and 64 clients", (*Bench).warmSmall},
		{"herd", "1 to 100 clients at once on a cold blob of 64 and 256 MiB", (*Bench).herd},
		{"follower", "a second client while the first one reads slowly, or has left", (*Bench).follower},
		{"image", "a cold image of six layers, three at a time, over a slow link", (*Bench).image},
		{"layer", "a cold layer of 400 MiB over a slow link with a cap on each connection; one of 100 MiB without", (*Bench).layer},
		{"resume", "upstream bytes after a kill -9 at 60 % of a 256 MiB fill", (*Bench).resume},
		{"ranges", "random 64 KiB ranges of cold blobs: 2,000 of 1 GiB, 20 of 256 MiB", (*Bench).ranges},
		{"head", "500 readers at the head of one slow fill, and of the same blob warm", (*Bench).head},
		{"cold", "one cold blob of 512 MiB, one reader, no limit: CPU and allocations", (*Bench).cold},
		{"many-small", "2,000 cold 64 KiB blobs, 16 clients", (*Bench).manySmall},
		{"memory", "peak memory under fast, slow and many readers", (*Bench).memory},
		{"start", "stop, start and first hit with 10,000 blobs cached", (*Bench).start},
		{"scale", "a million blobs: adopting them, starts, memory, latency of hits against a thousand", (*Bench).scale},
		{"storm", "latency of hits beside a storm of fills, and with a slow disk under the index", (*Bench).storm},
		{"evict", "filling a full cache against an empty one; 1.6 GiB through a cap of 256 MiB", (*Bench).evict},
		{"beside", "latency of hits while all is verified, and while fills evict", (*Bench).beside},
		{"disk", "what 100,000 blobs of 4 KiB take on the disk", (*Bench).disk},
		{"syncs", "how many fsyncs 1,000 small fills cost", (*Bench).syncs},
	}
}

// Run runs one scenario.
func (b *Bench) Run(ctx context.Context, s Scenario) error {
	b.scenario = s.Name
	b.Logf("%s: %s", s.Name, s.About)
	if err := s.run(b, ctx); err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return nil
}

// add records a value under the running scenario.
func (b *Bench) add(cas, peer, metric string, v float64) {
	b.Samples.Add(report.Key{Scenario: b.scenario, Case: cas, Peer: peer, Metric: metric}, v)
}

// fresh returns a tag that names content nobody has asked for.
func (b *Bench) fresh(what string) string {
	b.serial++
	return fmt.Sprintf("%s-%d", what, b.serial)
}

// only keeps those of names that are to be measured and can be.
func (b *Bench) only(names ...string) []string {
	return slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(b.Peers, n) || !b.Fleet.Has(n) })
}

// proxies are the caching ones that can be put in front of a variant: nginx and
// the floor fetch no tokens.
func (b *Bench) proxies(variant string) []string {
	var names []string
	for _, n := range b.Peers {
		switch n {
		case peer.FileServer, peer.NginxFiles, peer.CisternLog, peer.NginxLog, peer.Direct:
			continue
		case peer.NginxCache, peer.Floor:
			if variant != peer.Plain {
				continue
			}
		}
		names = append(names, n)
	}
	return b.only(names...)
}

// subjects are the proxies without the peers that are there to compare with.
func (b *Bench) subjects(variant string) []string {
	return slices.DeleteFunc(b.proxies(variant), func(n string) bool { return n == peer.NginxCache || n == peer.Floor })
}

// with starts the named peers before the registry of a variant, each with an
// empty cache, and stops them when fn is done.
func (b *Bench) with(ctx context.Context, variant string, names []string, fn func(*peer.Origin, []*peer.Target) error) error {
	return b.within(ctx, "", variant, names, fn)
}

// apart is with on a file system of the peers' own: where thousands of small files
// are made, what the machine's own is like would be most of the result.
func (b *Bench) apart(ctx context.Context, variant string, names []string, fn func(*peer.Origin, []*peer.Target) error) error {
	v, done, err := b.room(ctx, b.scenario, disk.Shape{Size: 16 << 30})
	if err != nil {
		return err
	}
	return errors.Join(b.within(ctx, v.Dir, variant, names, fn), done())
}

// within is with, the caches below dir; "": wherever the fleet has its own.
func (b *Bench) within(ctx context.Context, dir, variant string, names []string, fn func(*peer.Origin, []*peer.Target) error) (err error) {
	o, err := b.Fleet.Origin(ctx, variant)
	if err != nil {
		return err
	}
	var targets []*peer.Target
	defer func() {
		for _, t := range targets {
			err = errors.Join(err, b.Fleet.Stop(t))
		}
	}()
	for _, n := range names {
		var set peer.Setting
		if dir != "" {
			set.Cache = filepath.Join(dir, n)
		}
		t, err := b.Fleet.StartWith(ctx, n, o, set)
		if err != nil {
			return err
		}
		targets = append(targets, t)
	}
	if err := link(ctx, o, shape.Spec{}); err != nil {
		return err
	}
	return fn(o, targets)
}

// link waits until the registry is idle, sets the network and forgets what was
// counted. Bodies that the round before broke off must not count in the next.
func link(ctx context.Context, o *peer.Origin, s shape.Spec) error {
	if _, err := idle(ctx, o); err != nil {
		return err
	}
	return errors.Join(o.Link(ctx, s), o.Reset(ctx))
}

// idle waits until the registry answers nobody, and returns what it has counted: all
// that a proxy has fetched by then, also what it went on fetching for nobody.
func idle(ctx context.Context, o *peer.Origin) (origin.Counters, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		n, err := o.Counters(ctx)
		if err != nil {
			return n, fmt.Errorf("waiting for the registry to be idle: %w", err)
		}
		if n.Active == 0 {
			return n, nil
		}
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return n, fmt.Errorf("waiting for the registry to be idle: %d requests: %w", n.Active, err)
		}
	}
}

func blobPath(im origin.Image, l origin.Layer) string {
	return "/v2/" + im.Repository + "/blobs/" + l.Digest
}

func manifestPath(im origin.Image, ref string) string {
	return "/v2/" + im.Repository + "/manifests/" + ref
}

// accept is what a client asks manifests in.
const accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"

// get pulls one blob and checks its status, length and checksum, and with
// sink.SHA256 its digest.
func get(ctx context.Context, c *load.Client, path string, l origin.Layer, sink load.Sink) (load.Got, error) {
	resp, err := c.Do(ctx, load.Request{Path: path})
	if err != nil {
		return load.Got{}, err
	}
	if resp.Status != 200 {
		return load.Got{}, fmt.Errorf("%s: status %d", path, resp.Status)
	}
	got, err := c.Drain(ctx, resp, sink)
	if err != nil {
		return got, fmt.Errorf("%s: %w after %d bytes", path, err, got.Bytes)
	}
	if sink.Stop > 0 {
		return got, nil
	}
	switch {
	case got.Bytes != l.Size:
		err = fmt.Errorf("%s: %d bytes, want %d", path, got.Bytes, l.Size)
	case sink.CRC && got.CRC != l.CRC:
		err = fmt.Errorf("%s: wrong checksum", path)
	case sink.SHA256 && got.SHA256 != l.Digest:
		err = fmt.Errorf("%s: wrong digest %s", path, got.SHA256)
	}
	return got, err
}

// pullOnce fetches path over a connection of its own, digest checked.
func pullOnce(ctx context.Context, t *peer.Target, path string, l origin.Layer) error {
	c, err := load.New(load.Options{Base: t.Base})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = get(ctx, c, path, l, load.Sink{SHA256: true})
	return err
}

// getManifest pulls a manifest and checks that it is the right one.
func getManifest(ctx context.Context, c *load.Client, im origin.Image, ref string) error {
	resp, err := c.Do(ctx, load.Request{Path: manifestPath(im, ref), Accept: accept})
	if err != nil {
		return err
	}
	data, err := c.ReadAll(ctx, resp, 8<<20)
	if err == nil && (resp.Status != 200 || string(data) != string(im.Manifest)) {
		err = fmt.Errorf("manifest %s:%s: status %d, %d bytes, want 200 and %d", im.Repository, ref, resp.Status, len(data), len(im.Manifest))
	}
	return err
}

// cost runs fn and returns the CPU time that the target used meanwhile; 0 where
// it runs elsewhere.
func cost(t *peer.Target, fn func() error) (time.Duration, error) {
	if !t.Local() {
		return 0, fn()
	}
	before, err := proc.CPU(t.Pids)
	if err != nil {
		return 0, err
	}
	if err := fn(); err != nil {
		return 0, err
	}
	after, err := proc.CPU(t.Pids)
	return after - before, err
}

const (
	gb  = 1e9
	mib = 1 << 20
)

// ms converts to the unit of latencies.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// us converts to the unit of CPU per request.
func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// inTurn does a cold round with each target, as often as there are to be.
func (b *Bench) inTurn(ts []*peer.Target, round func(*peer.Target) error) error {
	for range b.ColdRounds {
		for _, t := range ts {
			if err := round(t); err != nil {
				return fmt.Errorf("%s: %w", t.Name, err)
			}
		}
	}
	return nil
}
