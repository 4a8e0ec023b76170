package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cistern/test/lab"
)

// An ending is how one life of the daemon is over.
type ending struct {
	name  string
	term  bool // SIGTERM, and waited for
	cut   bool // the file system loses what was not flushed
	clean bool // nothing may be missing afterwards
	// call aims: the end comes as the daemon enters such a system call for the nth time in one of its threads.
	call string
	nth  int
	last bool // it comes with the last bytes of a blob
}

var (
	killed = ending{name: "kill"}
	cut    = ending{name: "cut", cut: true}
	ended  = ending{name: "term", term: true, clean: true}
	// What SIGTERM has left is on stable storage.
	endedAndCut = ending{name: "term and cut", term: true, cut: true, clean: true}
)

// A plan is a series of lives on one file system.
type plan struct {
	name    string
	volume  lab.VolumeOptions
	ends    []ending // one a life, in a random order
	limit   int64    // the daemon's cap; one that the load does not reach keeps it from evicting
	history int64    // bytes of truth after which a new cache is begun
	evicts  bool     // the load is more than the cap
	failing bool     // upstream fails as well (row 52)
	aimed   bool     // each end has its system call; being watched slows a process down
}

// cuts tells whether it is the power that ends most lives.
func (p plan) cuts() bool {
	return slices.ContainsFunc(p.ends, func(e ending) bool { return e.cut && !e.term })
}

// times is a list of endings.
func times(n int, how ending) []ending { return slices.Repeat([]ending{how}, n) }

// A driver runs a plan: start the daemon, compare all that it has with the truth, put it under load, end it at a random
// moment, again and again on the same cache.
type driver struct {
	plan
	rng    *rand.Rand
	volume *lab.Volume
	origin *origin
	pool   []byte
	boot   string
	empty  int64 // bytes that the file system takes without a cache

	world  *world
	ledger *ledger
	last   ending
	tally  *tally
}

// run is the whole plan. It is one subtest a life, so that what a life leaves behind goes with it.
func (p plan) run(t *testing.T, pool []byte, seed uint64) *tally {
	d := &driver{plan: p, rng: rand.New(rand.NewPCG(seed, 1)), pool: pool, origin: startOrigin(t), tally: &tally{}}
	d.volume = lab.NewVolume(t, p.volume)
	d.empty = d.volume.Used(t)
	d.ends = slices.Clone(p.ends)
	d.rng.Shuffle(len(d.ends), func(i, j int) { d.ends[i], d.ends[j] = d.ends[j], d.ends[i] })
	d.begin(t)
	for n := 0; n <= len(d.ends) && !t.Failed(); n++ {
		t.Run(fmt.Sprintf("life%04d", n), func(t *testing.T) { d.life(t, n) })
	}
	if t.Failed() {
		t.Logf("again: CISTERN_CRASH_SEED=%d go test -run '%s' ./crash", seed, t.Name())
	}
	return d.tally
}

// begin makes a new history in an empty directory.
func (d *driver) begin(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(d.dir()); err != nil {
		t.Fatal(err)
	}
	d.world, d.ledger, d.last, d.boot = newWorld(d.pool, d.rng), newLedger(), ended, bootID(d.rng)
	d.origin.world.Store(d.world)
	d.tally.histories++
}

func (d *driver) dir() string { return filepath.Join(d.volume.Dir, "cache") }

// life is the nth run of the daemon on what the last one left; the last life of all is not ended by a fault.
func (d *driver) life(t *testing.T, n int) {
	c := d.start(t)
	client := newClient(c.URL)
	defer client.close()
	d.known(t, c)
	d.check(t, client)
	if n == len(d.ends) {
		d.stop(t, c)
		return
	}
	l := &load{t: t, client: client, world: d.world, ledger: d.ledger, rng: d.rng, lenient: d.failing}
	if d.failing {
		d.origin.setFaults(rand.New(rand.NewPCG(d.rng.Uint64(), 2)))
	}
	d.origin.slow.Store(true)
	watch := d.watch(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	how := d.ends[n]
	took, wait := l.run(ctx, d.moment())
	more := func() {}
	if how.call != "" {
		began := time.Now()
		d.aim(t, c, l, how)
		_, more = l.run(ctx, 2500) // or fewer
		took += time.Since(began)
		l.linger(ctx)
	}
	watch()
	d.end(t, c, l, how)
	cancel()
	wait()
	more() // what this life delivered is noted before its end is
	d.origin.setFaults(nil)
	d.origin.slow.Store(false)
	d.after(t, l, took, how)
}

// moment is after how many requests a life ends: from a twentieth of a second on; where the power is cut, up to four and a
// half, or nine, long enough for some checkpoints.
func (d *driver) moment() int {
	most := 600
	if d.cuts() {
		most = 1800
	}
	if d.volume.Kind() == "btrfs" {
		most = 3600 // its syncs go through two file systems
	}
	switch d.rng.IntN(3) {
	case 0:
		return 20 + d.rng.IntN(most/6)
	case 1:
		return most/6 + d.rng.IntN(most/3)
	default:
		return most/2 + d.rng.IntN(most/2)
	}
}

func (d *driver) start(t *testing.T) *lab.Cistern {
	t.Helper()
	unlock := setBoot(t, d.boot)
	defer unlock()
	began := time.Now()
	c := lab.StartCistern(t, lab.CisternOptions{Config: d.origin.config(d.limit), Cache: d.dir(), Args: []string{"--log-level", "warn"}})
	d.tally.started(time.Since(began))
	return c
}

// end brings the life to its end while the load runs.
func (d *driver) end(t *testing.T, c *lab.Cistern, l *load, how ending) {
	t.Helper()
	if how.call == "" {
		<-time.After(time.Duration(d.rng.IntN(5000)) * time.Microsecond)
	} else if !l.over() {
		t.Errorf("void: it has never called %s", how.call)
	}
	l.ending.Store(true)
	if how.call == "" {
		d.ledger.ending()
	}
	switch {
	case how.term:
		d.stop(t, c)
	case how.cut:
		d.ledger.freeze()
		d.volume.PowerOff(t)
		c.Kill()
	default:
		c.Kill()
	}
	if how.cut {
		d.volume.Cut(t)
		d.boot = bootID(d.rng)
	}
}

func (d *driver) stop(t *testing.T, c *lab.Cistern) {
	t.Helper()
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Exited():
	case <-time.After(15 * time.Second):
		t.Fatal("it does not end within 15 s of SIGTERM")
	}
	if code := c.ExitCode(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

// after does the accounts of a life.
func (d *driver) after(t *testing.T, l *load, took time.Duration, how ending) {
	t.Helper()
	if l.done.Load() == 0 {
		t.Error("void: a life without load")
	}
	_, _, partial := d.ledger.counts()
	d.tally.lived(how, l, took, partial)
	d.tally.failedUpstream = d.origin.faulted()
	d.ledger.ended(how)
	d.last = how
	if d.world.bytes() > d.history {
		d.begin(t)
	}
}

// watch follows the daemon's checkpoints and the space that it takes, until its end; the function returned waits for that.
func (d *driver) watch(t *testing.T, c *lab.Cistern) (wait func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for d.tick(ctx, 50*time.Millisecond) {
			asked := time.Now()
			if n, err := metric(ctx, c.Admin, "cistern_checkpoints_total"); err == nil {
				d.ledger.checkpoints(asked, n)
			}
		}
	})
	running.Go(func() {
		for d.tick(ctx, 10*time.Millisecond) {
			d.space(t)
		}
	})
	return func() { cancel(); running.Wait() }
}

func (d *driver) tick(ctx context.Context, every time.Duration) bool {
	select {
	case <-time.After(every):
		return true
	case <-ctx.Done():
		return false
	}
}

// space holds what the file system takes now against the cap.
func (d *driver) space(t *testing.T) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.volume.Dir, &s); err != nil {
		t.Error(err)
		return
	}
	used := int64(s.Blocks-s.Bfree)*s.Bsize - d.empty
	if d.tally.space(used) && used > d.limit {
		t.Errorf("OVER THE CAP: %d bytes are in use of %d", used, d.limit)
	}
}

// known compares what the daemon counts, after its start, with what its directory takes.
func (d *driver) known(t *testing.T, c *lab.Cistern) {
	t.Helper()
	unknown := counted(t, c, d.volume, d.empty)
	d.tally.unknown = max(d.tally.unknown, unknown)
}
