package disk_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cistern/test/lab"
)

// TestCapStorm shows promise 5: 32 clients pull ten times what the cache may hold, and at every sample of statfs, thousands
// of them, the file system has lost no more than the cap to the cache directory: blobs, growing files, folders, the index.
func TestCapStorm(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		chunked    bool // upstream gives no lengths
		young      bool // no checkpoint ends: everything is younger than the last one
		cap        int64
		size       int // of every blob; 0: mixed
	}{
		{name: "ext4", kind: "ext4", cap: 64 * mib},
		{name: "tmpfs", kind: "tmpfs", cap: 64 * mib},
		{name: "xfs", kind: "xfs", cap: 32 * mib},
		{name: "ext4, unknown lengths", kind: "ext4", chunked: true, cap: 32 * mib},
		{name: "tmpfs, unknown lengths", kind: "tmpfs", chunked: true, cap: 32 * mib},
		{name: "ext4, no checkpoint", kind: "ext4", young: true, cap: 32 * mib},
		{name: "xfs, no checkpoint", kind: "xfs", young: true, cap: 32 * mib},
		{name: "ext4, large ones", kind: "ext4", cap: 128 * mib, size: 8 * mib},
		{name: "xfs, unknown lengths", kind: "xfs", chunked: true, cap: 32 * mib},
		// XFS would promise each of these twice what it takes.
		{name: "xfs, small ones", kind: "xfs", cap: 8 * mib, size: 16 * kib},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVolume(t, lab.VolumeOptions{Kind: c.kind, Size: max(6*c.cap, 300*mib)})
			s := settings{dir: filepath.Join(v.Dir, "cache"), cap: c.cap, origin: startOrigin(t)}
			empty := v.Used(t)
			if c.young {
				s.under = withoutCheckpoints(t, s)
			}
			r := start(t, s)
			r.chunked.Store(c.chunked)
			w := watch(t, v, r.daemon, empty+c.cap)
			st := r.stormOf(10*c.cap, sizes(c.size))
			w.end()
			t.Logf("%v; %v", st, w)
			t.Logf("highest use %.3f of the cap (%+d bytes)", float64(w.used.Load()-empty)/float64(c.cap), w.used.Load()-empty-c.cap)
			if over := w.used.Load() - empty - c.cap; over > 0 {
				t.Errorf("%d bytes over the cap", over)
			}
			if n := w.samples.Load(); n < 1000 { // of a disk that others keep busy
				t.Errorf("only %d samples", n)
			}
			if r.daemon.Metric(t, "cistern_evicted_blobs_total") < 40 {
				t.Error("hardly anything was evicted: this was no storm")
			}
			if c.young {
				if n := r.daemon.Metric(t, "cistern_checkpoints_total"); n > 0 {
					t.Errorf("%v checkpoints have ended", n)
				}
				r.daemon.Kill() // it would wait for the last one
				r.down = true
			}
		})
	}
}

// withoutCheckpoints makes the directory of a cache and says how to run a daemon there whose index takes no commit for the
// length of a test.
func withoutCheckpoints(t *testing.T, s settings) []string {
	first := start(t, s)
	first.stop()
	return strace(t, filepath.Join(s.dir, "index.db"), "fdatasync,fsync", "delay_enter=300s")
}

// stormy says what a storm was.
type stormy struct {
	blobs, pulls, hits, passed int64
	bytes                      int64
	took                       time.Duration
}

func (s stormy) String() string {
	return fmt.Sprintf("%d pulls of %d blobs and manifests, %d hits, %d past the disk, %.0f MiB/s", s.pulls, s.blobs, s.hits, s.passed,
		float64(s.bytes)/mib/s.took.Seconds())
}

// storm lets 32 clients pull a working set of so many bytes, of mixed sizes and in random order, with some that come back to
// what was just pulled. Each body must be right.
func (r *rig) storm(working int64) stormy { return r.stormOf(working, mixed) }

// sizes gives each blob that size; 0: mixed.
func sizes(size int) func(*rand.Rand) int {
	if size == 0 {
		return mixed
	}
	return func(*rand.Rand) int { return size }
}

// mixed draws from 1 KiB to 8 MiB, each power of two as often.
func mixed(rng *rand.Rand) int { return int(kib * math.Pow(8192, rng.Float64())) }

// stormOf is storm with blobs of other sizes.
func (r *rig) stormOf(working int64, size func(*rand.Rand) int) (st stormy) {
	r.t.Helper()
	rng := rand.New(rand.NewPCG(3, uint64(r.offset.Load())))
	var work []*blob
	for left := working; left > 0; {
		var layers []*blob
		for range 1 + rng.IntN(8) {
			b := r.blob(size(rng))
			layers = append(layers, b)
			left -= int64(len(b.data))
		}
		work = append(append(work, layers...), r.image(fmt.Sprint("tag", r.offset.Load()), layers...))
	}
	rng.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
	var next, pulls, hits, passed, bytes atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range 32 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(work) {
					return
				}
				for _, b := range []*blob{work[i], work[max(0, i-i%7)]} {
					a := r.get(b)
					if a.err != nil {
						r.t.Errorf("pull of %d bytes (%q): %v", len(b.data), a.outcome, a.err)
					}
					pulls.Add(1)
					bytes.Add(a.n)
					switch {
					case a.hit():
						hits.Add(1)
					case strings.Contains(a.outcome, "pass"):
						passed.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	st = stormy{int64(len(work)), pulls.Load(), hits.Load(), passed.Load(), bytes.Load(), time.Since(began)}
	return st
}

// A watcher samples statfs of a volume as often as it can.
type watcher struct {
	v       *lab.Volume
	daemon  *lab.Cistern
	samples atomic.Int64
	used    atomic.Int64 // most
	free    atomic.Int64 // least
	stop    chan struct{}
	done    chan struct{}
	most    int64 // of used; what the daemon says is logged when it is passed for the first time; 0: none
}

func watch(t testing.TB, v *lab.Volume, daemon *lab.Cistern, most int64) *watcher {
	w := &watcher{v: v, daemon: daemon, most: most, stop: make(chan struct{}), done: make(chan struct{})}
	w.free.Store(math.MaxInt64)
	go w.run(t)
	t.Cleanup(w.end)
	return w
}

func (w *watcher) run(t testing.TB) {
	defer close(w.done)
	tick := time.NewTicker(50 * time.Microsecond)
	defer tick.Stop()
	for {
		used, free, err := w.v.Space()
		if err != nil {
			t.Errorf("statfs: %v", err)
			return
		}
		if w.most > 0 && used > w.most {
			w.most = 0
			t.Logf("%d bytes are used; the daemon counts %.0f, of these %.0f evicted and open, and %.0f reserved", used,
				w.daemon.Metric(t, "cistern_cache_bytes"), w.daemon.Metric(t, "cistern_evicted_open_bytes"), w.daemon.Metric(t, "cistern_cache_reserved_bytes"))
		}
		w.samples.Add(1)
		w.used.Store(max(w.used.Load(), used))
		w.free.Store(min(w.free.Load(), free))
		select {
		case <-tick.C:
		case <-w.stop:
			return
		}
	}
}

// end stops the sampling. It may be called again.
func (w *watcher) end() {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	<-w.done
}

func (w *watcher) String() string { return fmt.Sprintf("%d samples", w.samples.Load()) }

// TestMinFreeStorm shows the other half of promise 5 (FAULTS row 39): what min_free asks for stays free on the file system, in a
// storm and while another program fills the disk: the cache gives way as far as it has anything to give.
func TestMinFreeStorm(t *testing.T) {
	const size, floor = 192 * mib, 96 * mib
	for _, minFree := range []string{"96MiB", "50%"} {
		t.Run(minFree, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVolume(t, lab.VolumeOptions{Kind: "tmpfs", Size: size})
			r := start(t, settings{dir: filepath.Join(v.Dir, "cache"), minFree: minFree})
			w := watch(t, v, r.daemon, 0)
			st := r.storm(320 * mib)
			w.end()
			t.Logf("alone: %v; %v, least free %+d bytes beyond min_free", st, w, w.free.Load()-floor)
			if w.free.Load() < floor {
				t.Errorf("%d bytes too few were free", floor-w.free.Load())
			}
			// Another program takes two thirds of what the cache has, step by step, in the middle of a storm. What it takes at
			// once the cache can only give back after it; so it waits for that.
			other, step := filepath.Join(v.Dir, "not-ours"), int64(4*mib)
			w = watch(t, v, r.daemon, 0)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for at := int64(0); at < 64*mib && !t.Failed(); at += step {
					if err := write(other, at, step); err != nil {
						t.Error(err)
					}
					r.leaves(v, floor)
				}
			}()
			st = r.storm(320 * mib)
			<-done
			w.end()
			t.Logf("beside another: %v; %v, least free %+d bytes beyond min_free", st, w, w.free.Load()-floor)
			// Beside the step itself, what was promised to fills before it is still written.
			if w.free.Load() < floor-4*step {
				t.Errorf("%d bytes too few were free", floor-w.free.Load())
			}
			r.leaves(v, floor)
			// And all of it: the cache streams, and keeps again once there is room.
			if err := write(other, 0, size-floor+8*mib); err != nil {
				t.Fatal(err)
			}
			b := r.blob(3 * mib)
			r.misses(b, b)
			if err := os.Remove(other); err != nil {
				t.Fatal(err)
			}
			r.keeps(b)
		})
	}
}

// leaves waits until so many bytes of a volume are free.
func (r *rig) leaves(v *lab.Volume, floor int64) {
	r.t.Helper()
	r.until(func() error {
		if _, free, err := v.Space(); err != nil || free < floor {
			return fmt.Errorf("%d of %d bytes are free (%v)", free, floor, err)
		}
		return nil
	})
}

// write writes n bytes into a file at an offset.
func write(path string, at, n int64) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	buf := make([]byte, mib)
	for end := at + n; at < end && err == nil; at += int64(len(buf)) {
		_, err = f.WriteAt(buf[:min(mib, end-at)], at)
	}
	return cmp.Or(err, f.Close())
}
