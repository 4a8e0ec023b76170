package crash_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cistern/test/lab"
)

// A scene is one daemon on a file system of its own, for the tests that follow one chain of events and leave little to
// chance. The world and the load are those of the random ones.
type scene struct {
	t      *testing.T
	rng    *rand.Rand
	origin *origin
	world  *world
	volume *lab.Volume
	empty  int64 // bytes that the file system takes without a cache
	limit  int64
	boot   string
	env    []string // of the daemon

	dir    string // the cache directory
	daemon *lab.Cistern
	client *client
}

// stage starts a daemon on a new file system.
func stage(t *testing.T, volume lab.VolumeOptions, limit int64) *scene {
	t.Helper()
	s := set(t, volume, limit)
	s.start()
	return s
}

// set is stage without the daemon.
func set(t *testing.T, volume lab.VolumeOptions, limit int64) *scene {
	t.Helper()
	seed := number(t, "CISTERN_CRASH_SEED", rand.Uint64()>>32)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the seed: CISTERN_CRASH_SEED=%d", seed)
		}
	})
	return furnish(t, volume, limit, newPool(seed, poolSize), seed)
}

// furnish is set with a pool of bytes that others use too.
func furnish(t *testing.T, volume lab.VolumeOptions, limit int64, pool []byte, seed uint64) *scene {
	t.Helper()
	s := &scene{t: t, rng: rand.New(rand.NewPCG(seed, 3)), origin: startOrigin(t), volume: lab.NewVolume(t, volume), limit: limit}
	s.world = newWorld(pool, s.rng)
	s.origin.world.Store(s.world)
	s.empty = s.volume.Used(t)
	s.boot = bootID(s.rng)
	s.dir = filepath.Join(s.volume.Dir, "cache")
	return s
}

func (s *scene) options() lab.CisternOptions {
	return lab.CisternOptions{Config: s.origin.config(s.limit), Cache: s.dir, Args: []string{"--log-level", "info"}, Env: s.env}
}

// start starts a daemon on the directory.
func (s *scene) start() {
	s.t.Helper()
	defer setBoot(s.t, s.boot)()
	s.daemon = lab.StartCistern(s.t, s.options())
	s.client = newClient(s.daemon.URL)
	s.t.Cleanup(s.client.close)
}

// cutPower takes what was not flushed, and starts a daemon on what is left.
func (s *scene) cutPower() {
	s.t.Helper()
	s.volume.PowerOff(s.t)
	s.daemon.Kill()
	s.volume.Cut(s.t)
	s.boot = bootID(s.rng)
	s.start()
}

// blobs adds blobs of one size to the world.
func (s *scene) blobs(n, size int) (things []*thing) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	for range n {
		things = append(things, s.world.addBlob(size))
	}
	return things
}

// pull gets things, four at once, each whole and right, and tells how many of them were hits.
func (s *scene) pull(things ...*thing) (hits int) {
	s.t.Helper()
	var mu sync.Mutex // guards hits
	queue := make(chan *thing)
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for x := range queue {
				r := s.client.do(s.t.Context(), ask{x: x})
				mu.Lock()
				if r.err != nil {
					s.t.Error(r.err)
				} else if r.hit {
					hits++
				}
				mu.Unlock()
			}
		})
	}
	for _, x := range things {
		queue <- x
	}
	close(queue)
	running.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	return hits
}

// offline gets things without upstream. Of one that is synced still it is no hit, and not asked for.
func (s *scene) offline(things ...*thing) {
	s.t.Helper()
	s.origin.off.Store(true)
	s.pull(things...)
	if m := s.origin.misses(); len(m) > 0 {
		s.t.Errorf("upstream was asked for %d things that were delivered before, the first: %s", len(m), m[0])
	}
}

// recorded waits until all that was delivered is on record: one checkpoint may have begun before, the next has not.
func (s *scene) recorded() {
	s.t.Helper()
	for range afterDelivery {
		was := s.daemon.Metric(s.t, "cistern_checkpoints_total")
		s.pull(s.world.newTag()) // something to record
		lab.Eventually(s.t, 20*time.Second, s.daemon.Process, func() error {
			if s.daemon.Metric(s.t, "cistern_checkpoints_total") == was {
				return errors.New("no checkpoint")
			}
			return nil
		})
	}
}

// used is what the file system has taken for the cache.
func (s *scene) used() int64 { return s.volume.Used(s.t) - s.empty }

// counted waits until the daemon knows of all that is in use, as a driver does after each start.
func (s *scene) counted() {
	s.t.Helper()
	counted(s.t, s.daemon, s.volume, s.empty)
}

// counted compares what a daemon says that its directory takes with what it does take: a file that it does not know of is
// never evicted. What it is hashing counts as reserved, and a file system may free a while after an unlink: so the two have
// to meet, and within seconds. It gives how much was unknown in the end.
func counted(t *testing.T, c *lab.Cistern, v *lab.Volume, empty int64) (unknown int64) {
	t.Helper()
	slack := int64(mib / 2)
	switch v.Kind() {
	case "xfs":
		slack = 2 * mib // it makes its inodes as it needs them, 512 bytes each, and keeps them
	case "btrfs":
		return 0 // it writes its trees anew with each transaction: what it takes says nothing of a few files
	}
	lab.Eventually(t, 5*time.Second, c.Process, func() error {
		reserved := c.Metric(t, "cistern_cache_reserved_bytes")
		says := int64(c.Metric(t, "cistern_cache_bytes"))
		used := v.Used(t) - empty
		if unknown = used - says; reserved > 0 || unknown > slack {
			return fmt.Errorf("the daemon knows of %d bytes, %.0f are reserved, and %d are in use", says, reserved, used)
		}
		return nil
	})
	return unknown
}
