package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"cistern/bench/crowd"
	"cistern/bench/disk"
	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/proc"
	"cistern/bench/stat"
)

const (
	million  = 1_000_000
	fewBlobs = 1000
	// adoptedRepository is the name under which adopted blobs are asked for: public
	// content is anybody's under any name.
	adoptedRepository = "scale/adopted"
	// randomHits is after how many hits memory is looked at.
	randomHits = 100_000
)

// scale is a cache of very many blobs beside one of a thousand.
type scale struct {
	*Bench
	o          *peer.Origin
	many, few  crowded
	population int
}

// crowded is a daemon on a crowd that was made by hand.
type crowded struct {
	*peer.Target
	home    crowd.Home
	members []crowd.Member
	probes  []crowd.Member
}

// scale makes two caches by hand, lets daemons adopt them, and measures starts,
// memory and the latency of hits in turn over both.
func (b *Bench) scale(ctx context.Context) (err error) {
	if len(b.only(peer.Cistern)) == 0 {
		return nil // nobody else can take up a cache that was made by hand
	}
	s := &scale{Bench: b, population: b.ScaleBlobs}
	switch {
	case b.Quick:
		s.population = 20_000
	case s.population == 0:
		s.population = million
	}
	if s.o, err = b.Fleet.Origin(ctx, peer.Plain); err != nil {
		return err
	}
	dir, done, err := s.place(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"populating", func(ctx context.Context) error { return s.populate(ctx, dir) }},
		{"adopting", s.adoptBoth},
		{"starting", s.starts},
		{"memory", s.memoryAfterHits},
		{"latency", s.latency},
		{"asking", s.asking},
	}
	defer func() {
		for _, c := range []crowded{s.few, s.many} {
			if c.Target != nil {
				err = errors.Join(err, b.Fleet.Stop(c.Target))
			}
		}
	}()
	for _, st := range steps {
		b.Logf("scale: %s", st.what)
		if err := st.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", st.what, err)
		}
	}
	return nil
}

// place is where the caches are made: the folder that is kept, else a file system
// of its own, else the fleet's folder.
func (s *scale) place(ctx context.Context) (dir string, done func() error, err error) {
	if s.KeepScale != "" {
		dir, err := filepath.Abs(s.KeepScale)
		return dir, func() error { return nil }, err
	}
	v, err := s.Fleet.Volume(ctx, "scale", disk.Shape{Size: int64(s.population)*12<<10 + 4<<30, InodeBytes: 8 << 10})
	if errors.Is(err, disk.ErrNoVolume) {
		s.Logf("scale: %v", err)
		dir, err := s.Fleet.Folder("scale")
		return dir, func() error { return nil }, err
	}
	if err != nil {
		return "", nil, err
	}
	return v.Dir, func() error { return s.Fleet.Discard(v) }, nil
}

func (s *scale) populate(ctx context.Context, dir string) error {
	s.many.home = crowd.Home{Dir: filepath.Join(dir, fmt.Sprintf("many-%d", s.population))}
	s.few.home = crowd.Home{Dir: filepath.Join(dir, "few")}
	var err error
	var w crowd.Written
	if s.few.members, _, err = s.few.home.Populate(ctx, crowd.Spec{Seed: 2, Blobs: fewBlobs, Probes: true}, nil); err != nil {
		return err
	}
	s.many.members, w, err = s.many.home.Populate(ctx, crowd.Spec{Seed: 1, Blobs: s.population}, func(n int) {
		s.Logf("scale: %d blobs of %d written", n, s.population)
	})
	if err != nil {
		return err
	}
	if w.Blobs > 0 {
		s.add(scaleCase(s.population), "bench", "written, blobs/s", float64(w.Blobs)/w.Took.Seconds())
		s.add(scaleCase(s.population), "bench", "allocated by blobs, GB", float64(w.Allocated)/gb)
	}
	for _, c := range []*crowded{&s.many, &s.few} {
		for _, m := range c.members {
			if m.Size == crowd.ProbeSize {
				c.probes = append(c.probes, m)
			}
		}
	}
	return nil
}

func (m crowdMember) path() string { return "/v2/" + adoptedRepository + "/blobs/" + m.Digest() }

func (m crowdMember) layer() origin.Layer { return origin.Layer{Digest: m.Digest(), Size: m.Size} }

// crowdMember is a blob as the clients ask for it.
type crowdMember struct{ crowd.Member }

func (c crowded) random(r *rand.Rand) crowdMember {
	return crowdMember{c.members[r.IntN(len(c.members))]}
}

// starts takes the time from the exec to the end of the first hit, in turn over
// both caches: after a clean stop; after a kill in the second before a checkpoint;
// and after a clean stop with the index out of the page cache, as after a reboot.
func (s *scale) starts(ctx context.Context) error {
	r := rand.New(rand.NewPCG(3, 3))
	halts := []struct {
		name string
		halt func(context.Context, crowded) error
	}{
		{startClean, func(_ context.Context, c crowded) error { s.Fleet.Halt(c.Target); return nil }},
		{startKilled, s.killFilling},
		{startUncached, func(_ context.Context, c crowded) error {
			s.Fleet.Halt(c.Target)
			return disk.Uncache(filepath.Join(c.home.Cache(), "index.db"))
		}},
	}
	for range s.Rounds {
		for _, h := range halts {
			for _, c := range []crowded{s.many, s.few} {
				if err := h.halt(ctx, c); err != nil {
					return fmt.Errorf("%s: %s: %w", c.Name, h.name, err)
				}
				started, err := s.Fleet.Again(ctx, c.Target)
				if err != nil {
					return err
				}
				m := c.random(r)
				took, err := firstHit(ctx, c.Target, started, m.path(), m.layer())
				if err != nil {
					return fmt.Errorf("%s: %s: %w", c.Name, h.name, err)
				}
				s.add(scaleCase(len(c.members)), h.name, startToHit, ms(took))
			}
		}
	}
	return nil
}

// killFilling kills a daemon that has just been given 200 blobs.
func (s *scale) killFilling(ctx context.Context, c crowded) error {
	im, err := s.o.Image(ctx, "scale/200x4k", s.fresh("k"))
	if err != nil {
		return err
	}
	if err := pullBlobs(ctx, c.Base, &load.Tokens{}, im, im.Layers, 8); err != nil {
		return err
	}
	s.Fleet.Kill(c.Target)
	return nil
}

// memoryAfterHits has eight clients hit any blobs, and looks at the memory that is
// not a mapped file before and after.
func (s *scale) memoryAfterHits(ctx context.Context) error {
	total := randomHits
	if s.Quick {
		total = 10_000
	}
	for _, c := range []crowded{s.many, s.few} {
		cas := scaleCase(len(c.members))
		before, err := proc.Anonymous(c.Pids)
		if err != nil {
			return err
		}
		start := time.Now()
		if err := s.hitAll(ctx, c.Target, total, func(r *rand.Rand, _ int) crowdMember { return c.random(r) }, nil); err != nil {
			return err
		}
		took := time.Since(start)
		after, err := proc.Anonymous(c.Pids)
		if err != nil {
			return err
		}
		s.add(cas, peer.Cistern, "RssAnon after the start, MiB", float64(before)/mib)
		s.add(cas, peer.Cistern, anonAfterHits, float64(after)/mib)
		s.add(cas, peer.Cistern, "random hits/s, 8 clients", float64(total)/took.Seconds())
	}
	return nil
}

// latency measures single hits, in turn over both caches, with one client: on the
// probes, which no daemon keeps in memory, and on any blobs. All probes were asked
// for once before: their pages, and those of the index that lead to them, are in
// the page cache in both cases. What that first time took is told, too.
func (s *scale) latency(ctx context.Context) error {
	for _, c := range []crowded{s.many, s.few} {
		var times []float64
		err := s.hitAll(ctx, c.Target, len(c.probes), func(_ *rand.Rand, i int) crowdMember { return crowdMember{c.probes[i]} }, &times)
		if err != nil {
			return err
		}
		s.addTimes(scaleCase(len(c.members)), hitFirstTime, times)
	}
	loads := []struct {
		name string
		pick func(c crowded, r *rand.Rand) crowdMember
	}{
		{hitProbe, func(c crowded, r *rand.Rand) crowdMember { return crowdMember{c.probes[r.IntN(len(c.probes))]} }},
		{hitAny, crowded.random},
	}
	for _, l := range loads {
		for range max(s.Rounds, 1) {
			for _, c := range []crowded{s.many, s.few} {
				r := rand.New(rand.NewPCG(uint64(s.serial), 5))
				s.serial++
				h := hits{clients: 1, length: s.Window, next: func(int, int) (string, int64) {
					m := l.pick(c, r)
					return m.path(), m.Size
				}}
				got, err := h.run(ctx, c.Target)
				if err != nil {
					return fmt.Errorf("%s: %w", c.Name, err)
				}
				s.addTimes(scaleCase(len(c.members)), l.name, got.times)
			}
		}
	}
	return nil
}

// addTimes records latencies under what was hit, so that the two caches are rows.
func (s *scale) addTimes(cas, what string, times []float64) {
	s.add(cas, what, p50, stat.Percentile(times, 50))
	s.add(cas, what, p99, stat.Percentile(times, 99))
}
