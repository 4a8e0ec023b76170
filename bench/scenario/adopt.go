package scenario

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cistern/bench/load"
	"cistern/bench/peer"
	"cistern/bench/proc"
)

// adoptBoth starts the daemons on the crowds. Without an index they adopt them:
// how fast is compared with reading and hashing the same files in one thread.
func (s *scale) adoptBoth(ctx context.Context) error {
	for _, c := range []struct {
		*crowded
		label string
	}{{&s.few, "cistern, few"}, {&s.many, peer.Cistern}} {
		kept := s.KeepIndex && exists(filepath.Join(c.home.Cache(), "index.db"))
		if !kept {
			if err := c.home.Forget(); err != nil {
				return err
			}
		}
		floor, err := hashRate(c.crowded)
		if err != nil {
			return err
		}
		started := time.Now()
		c.Target, err = s.Fleet.StartWith(ctx, peer.Cistern, s.o, peer.Setting{Label: c.label, Cache: c.home.Cache()})
		if err != nil {
			return err
		}
		cas := scaleCase(len(c.members))
		if !kept {
			s.add(cas, peer.Cistern, "start to an answer without an index, ms", ms(time.Since(started)))
			s.hitWhileAdopting(ctx, c.crowded, started)
		}
		high, err := s.adopted(ctx, c.crowded)
		if err != nil {
			return err
		}
		if !kept {
			rate := float64(len(c.members)) / time.Since(started).Seconds()
			s.add(cas, peer.Cistern, adoptRate, rate)
			s.add(cas, peer.Cistern, "the same / reading and hashing in one thread", rate/floor)
			s.add(cas, peer.Cistern, "RssAnon, highest while adopting, MiB", float64(high)/mib)
		}
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// hashRate reads and hashes a sample of the files, which the adoption does next:
// what the machine can do at best, in blobs/s.
func hashRate(c *crowded) (float64, error) {
	r, start := rand.New(rand.NewPCG(9, 9)), time.Now()
	sample := min(len(c.members), 10_000)
	for range sample {
		m := c.members[r.IntN(len(c.members))]
		data, err := os.ReadFile(filepath.Join(c.home.Cache(), m.File()))
		if err != nil {
			return 0, err
		}
		if sha256.Sum256(data) != m.Sum {
			return 0, fmt.Errorf("%s is damaged", m.Digest())
		}
	}
	return float64(sample) / time.Since(start).Seconds(), nil
}

// hitWhileAdopting tells when the first adopted blob was served. A daemon that
// serves none before it is done is told of, and measured all the same.
func (s *scale) hitWhileAdopting(ctx context.Context, c *crowded, started time.Time) {
	m := c.random(rand.New(rand.NewPCG(4, 4)))
	took, err := firstHit(ctx, c.Target, started, m.path(), m.layer())
	if err != nil {
		s.Logf("scale: no hit while adopting: %v", err)
		return
	}
	s.add(scaleCase(len(c.members)), peer.Cistern, "start without an index to the first hit, ms", ms(took))
}

// patience is how long an adoption may stand still.
const patience = 60 * time.Second

// adopted waits until the daemon knows all blobs, and returns the highest
// anonymous memory meanwhile.
func (s *scale) adopted(ctx context.Context, c *crowded) (high int64, err error) {
	var known float64
	last := time.Now()
	for told := last; ; {
		n, err := c.Metric(ctx, "cistern_cache_blobs")
		if err != nil {
			return high, err
		}
		rss, err := proc.Anonymous(c.Pids)
		if err != nil {
			return high, err
		}
		high = max(high, rss)
		switch {
		case int(n) >= len(c.members):
			return high, nil
		case n > known:
			known, last = n, time.Now()
		case time.Since(last) > patience:
			return high, fmt.Errorf("%.0f of %d blobs adopted, and no more within %s", n, len(c.members), patience)
		}
		if time.Since(told) > 20*time.Second {
			told = time.Now()
			s.Logf("scale: %.0f of %d blobs adopted", n, len(c.members))
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return high, err
		}
	}
}

// hitAll makes so many hits with eight clients, checks their lengths, and appends
// their times in ms to times if that is set.
func (s *scale) hitAll(ctx context.Context, t *peer.Target, total int, pick func(r *rand.Rand, i int) crowdMember, times *[]float64) error {
	var next atomic.Int64
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for w := range 8 {
		g.Go(func() error {
			c, err := load.New(load.Options{Base: t.Base})
			if err != nil {
				return err
			}
			defer c.Close()
			r := rand.New(rand.NewPCG(uint64(w), 1))
			var mine []float64
			for i := int(next.Add(1) - 1); i < total; i = int(next.Add(1) - 1) {
				m, start := pick(r, i), time.Now()
				resp, err := c.Do(ctx, load.Request{Path: m.path()})
				if err != nil {
					return err
				}
				if resp.Status != 200 || resp.Length != m.Size {
					return fmt.Errorf("%s: %s: status %d and %d bytes, want 200 and %d", t.Name, m.path(), resp.Status, resp.Length, m.Size)
				}
				if err := c.Skip(ctx, resp); err != nil {
					return err
				}
				mine = append(mine, ms(time.Since(start)))
			}
			mu.Lock()
			defer mu.Unlock()
			if times != nil {
				*times = slices.Concat(*times, mine)
			}
			return nil
		})
	}
	return g.Wait()
}
