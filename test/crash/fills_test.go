package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cistern/test/lab"
)

// Ends over large blobs on their way. They take some seconds, so that they are synced while they grow.
var (
	// cutNoted cuts the power as the piece state of one of them has just been synced.
	cutNoted = ending{name: "cut as pieces are noted", cut: true, call: "fsync", nth: 1}
	// The others come just before, or after, the last byte of one of them.
	cutLast    = ending{name: "cut at the end of a blob", cut: true, last: true}
	killedLast = ending{name: "kill at the end of a blob", last: true}
)

// fillPool makes it unlikely that two of the large blobs have a piece in common.
const fillPool = 160 * mib

// TestFills is FAULTS rows 40 and 41 for large blobs on their way, of which readers want all, or ranges, or one after the
// other. What was written is not fetched again after a kill, nor is what was noted as synced after a power cut; what is made
// of it is right.
func TestFills(t *testing.T) {
	t.Parallel()
	n := int(number(t, "CISTERN_CRASH_CUTS", 100))
	seed := number(t, "CISTERN_CRASH_SEED", rand.Uint64()>>32)
	pool := newPool(seed, fillPool)
	xfs := lab.VolumeOptions{Kind: "xfs", Size: 1024 * mib}
	commit1, commit1000 := ext4("commit=1"), ext4("commit=1000")
	commit1.Size, commit1000.Size = xfs.Size, xfs.Size
	few := max(1, n/100)
	ends := slices.Concat(times(few, cut), times(few, cutNoted), times(few, cutLast), times(few, killed))
	if few > 1 {
		ends = slices.Concat(ends, times(few, cut), times(few, killedLast))
	}
	t.Run("series", func(t *testing.T) {
		for i, v := range []struct {
			name   string
			volume lab.VolumeOptions
		}{{"fills-ext4-commit-1", commit1}, {"fills-ext4-commit-1000", commit1000}, {"fills-xfs", xfs}} {
			t.Run(v.name, func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				f := &filler{scene: furnish(t, v.volume, large, pool, seed+uint64(i))}
				for _, i := range f.rng.Perm(len(ends)) {
					f.life(ends[i])
				}
				f.worth()
				if !t.Failed() {
					t.Log(f.row(v.name, seed, time.Since(began)))
				}
			})
		}
	})
	if t.Failed() {
		t.Logf("the seed: CISTERN_CRASH_SEED=%d", seed)
	}
}

// A filler has large blobs filled, ends the daemon meanwhile, and compares what comes of them.
type filler struct {
	*scene
	toll
	ending atomic.Bool // answers may break off from now on

	mu  sync.Mutex       // guards got
	got map[*thing][]ask // right bytes that this life has delivered, as ranges
}

// A want is how a blob is asked for: by readers of ranges, by one of all of it, or by one after the others have begun.
type want struct{ ranges, whole, each bool }

// wants are those of the three blobs of a life. Of some each stream comes at a rate of its own: several of them pay. Where it
// is the first one that a life ends by, that is wanted whole, and comes in some seconds.
func (f *filler) wants(how ending) []want {
	all := []want{{whole: true}, {ranges: true, whole: true}, {ranges: true}, {whole: true, each: true}}
	f.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if how.last || how.call != "" {
		i := slices.IndexFunc(all, func(w want) bool { return w.whole && !w.each })
		all[0], all[i] = all[i], all[0]
	}
	return all[:3]
}

// life is one run of the daemon on an empty directory, and one on what is left of it.
func (f *filler) life(how ending) {
	f.t.Helper()
	f.anew()
	f.start()
	ctx, cancel := context.WithCancel(f.t.Context())
	var readers sync.WaitGroup
	over := func() {
		f.ending.Store(true)
		cancel()
		readers.Wait()
	}
	defer over()
	f.ending.Store(false)
	f.got = map[*thing][]ask{}
	var xs []*thing
	for _, w := range f.wants(how) {
		x := f.blobs(1, (64+f.rng.IntN(32))*mib+f.rng.IntN(mib))[0]
		xs = append(xs, x)
		rate := int64(12+f.rng.IntN(8)) * mib
		if w.each {
			rate /= 2
		}
		f.origin.pace(x, rate, w.each)
		rng := rand.New(rand.NewPCG(f.rng.Uint64(), 7))
		readers.Go(func() { f.read(ctx, x, w, rng) })
	}
	noted := f.moment(how, xs)
	f.ending.Store(true)
	before := f.remnants(xs)
	if how.cut {
		f.volume.PowerOff(f.t)
	}
	f.daemon.Kill()
	over()
	f.after(how, xs, before, noted)
}

// anew empties the directory and the world.
func (f *filler) anew() {
	f.t.Helper()
	if err := os.RemoveAll(f.dir); err != nil {
		f.t.Fatal(err)
	}
	f.world = newWorld(f.world.pool, f.rng)
	f.origin.world.Store(f.world)
	f.origin.off.Store(false)
}

// moment waits for the end of a life: for the last bytes of the first blob, for the piece state of it to be synced, or for
// some time from where a blob is synced for the first time. noted is the blob of which all that is noted as synced must be
// there after it; nil if there is none.
func (f *filler) moment(how ending, xs []*thing) (noted *thing) {
	f.t.Helper()
	switch {
	case how.call != "":
		return f.seized(how, xs[0])
	case how.last:
		left := f.rng.Int64N(mib)
		f.patiently(func() error {
			if sent, size := f.origin.total(xs[0]), xs[0].size(); sent < size-left {
				return fmt.Errorf("%d bytes of %d were sent", sent, size)
			}
			return nil
		})
		f.some(0, 80)
	case f.rng.IntN(8) == 0:
		f.some(100, 2000)
	default:
		f.patiently(func() error {
			for _, r := range f.remnants(xs) {
				if len(r.in(pieceSynced)) > 0 {
					return nil
				}
			}
			return errors.New("no piece was synced")
		})
		f.some(0, 2500)
	}
	return nil
}

// seized halts the daemon as it has synced the piece state of x, and gives x; nil if that is all there before.
func (f *filler) seized(how ending, x *thing) *thing {
	f.t.Helper()
	if f.some(300, 1200); f.noted > 0 { // the first time is there for certain; it may also be a later one
		f.some(0, 2000)
	}
	log := attach(f.t, f.daemon, "-P", sidePath(f.dir, x), "-e", "trace="+how.call,
		"-e", fmt.Sprintf("inject=%s:signal=SIGSTOP:when=%d", how.call, how.nth))
	f.patiently(func() error {
		if f.origin.total(x) < x.size() && !halted(f.daemon, log) {
			return fmt.Errorf("it has never called %s", how.call)
		}
		return nil
	})
	if !halted(f.daemon, log) {
		return nil
	}
	return x
}

// patiently is until where large blobs are waited for, on a machine that has other work.
func (f *filler) patiently(ok func() error) {
	f.t.Helper()
	lab.Eventually(f.t, time.Minute, f.daemon.Process, ok)
}

// some waits for so many milliseconds, and up to so many more.
func (f *filler) some(least, more int) {
	<-time.After(time.Duration(least+f.rng.IntN(more)) * time.Millisecond)
}

// read reads a blob as it is wanted, until ctx ends.
func (f *filler) read(ctx context.Context, x *thing, w want, rng *rand.Rand) {
	var readers sync.WaitGroup
	if w.ranges {
		for range 3 {
			mine := rand.New(rand.NewPCG(rng.Uint64(), 8))
			readers.Go(func() {
				for i := 0; ctx.Err() == nil && (!w.whole || i < 8); i++ {
					f.one(ctx, someRange(x, mine))
				}
			})
		}
	}
	if w.whole && w.ranges {
		brief := time.NewTimer(time.Second)
		defer brief.Stop()
		select {
		case <-brief.C:
		case <-ctx.Done():
		}
	}
	if w.whole {
		f.one(ctx, ask{x: x})
	}
	readers.Wait()
}

// someRange is one or two pieces of a blob, or as many bytes anywhere.
func someRange(x *thing, rng *rand.Rand) ask {
	from, n := rng.Int64N(x.size()-1), 1+rng.Int64N(2*pieceSize)
	if rng.IntN(2) == 0 {
		from, n = from/pieceSize*pieceSize, pieceSize*(1+rng.Int64N(2))
	}
	return ask{x: x, from: from, to: min(x.size()-1, max(1, from+n-1))}
}

// one asks, and what comes must be right, and all of it unless the daemon is being ended.
func (f *filler) one(ctx context.Context, a ask) {
	r := f.client.do(ctx, a)
	if r.err != nil && (errors.Is(r.err, errWrong) || !f.ending.Load()) {
		f.t.Errorf("on its way: %v", r.err)
	}
	if r.n > 0 {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.got[a.x] = append(f.got[a.x], ask{x: a.x, from: a.from, to: a.from + r.n - 1})
	}
}

// after starts the daemon on what is left, and compares what it makes of that and what it fetches for it.
func (f *filler) after(how ending, xs []*thing, before []*remnant, noted *thing) {
	f.t.Helper()
	if how.cut {
		f.volume.Cut(f.t)
		f.boot = bootID(f.rng)
	}
	lab.Eventually(f.t, 10*time.Second, nil, f.origin.idle)
	sent := map[*thing]int64{}
	for _, x := range xs {
		f.origin.unpace(x)
		sent[x] = sum(f.origin.piecesSince(x))
	}
	left := f.remnants(xs)
	for i, r := range left {
		if err := r.right(how.cut); err != nil {
			f.t.Errorf("after %s, of %s: %v", how.name, xs[i].path(), err)
		}
		if xs[i] == noted {
			f.kept(before[i], r)
		}
		if !how.cut {
			f.written(r)
		}
	}
	f.start()
	f.counted()
	f.all(xs)
	for i, x := range xs {
		again := f.origin.piecesSince(x)
		f.account(how, left[i], before[i], again)
		f.note(how, left[i], before[i], sent[x], sum(again), f.origin.several(x))
	}
	f.offline(xs...)
	f.lived(how, noted != nil)
	f.daemon.Kill()
	if f.t.Failed() {
		f.t.FailNow()
	}
}

func (f *filler) remnants(xs []*thing) (rs []*remnant) {
	f.t.Helper()
	for _, x := range xs {
		rs = append(rs, remains(f.t, f.dir, x))
	}
	return rs
}

// kept sees that what was noted as synced, and had been synced itself, has survived.
func (f *filler) kept(before, left *remnant) {
	f.t.Helper()
	for _, i := range before.in(pieceSynced) {
		if left.marks == nil || left.marks[i] != before.marks[i] {
			f.t.Errorf("piece %d of %s was on stable storage, and is LOST", i, left.x.path())
		}
	}
}

// written sees that what a life has delivered is there after a kill, and what it has written, but for what was being
// written.
func (f *filler) written(left *remnant) {
	f.t.Helper()
	for _, a := range f.got[left.x] {
		for i := int(a.from / pieceSize); int64(i) <= a.to/pieceSize; i++ {
			off, end := left.x.bounds(i)
			if has := left.has(i, false); off+has < min(end, a.to+1) {
				f.t.Errorf("%s was delivered, and of piece %d %d bytes are there", a, i, has)
			}
		}
	}
	if n, err := left.unnoted(); err != nil || n > 2*mib {
		f.t.Errorf("%d bytes of %s were written, and are of no use: %v", n, left.x.path(), err)
	}
}

// all has ranges of all blobs read, and then all of them.
func (f *filler) all(xs []*thing) {
	f.t.Helper()
	f.ending.Store(false)
	var readers sync.WaitGroup
	for _, x := range xs {
		rng := rand.New(rand.NewPCG(f.rng.Uint64(), 9))
		readers.Go(func() {
			for range 3 {
				f.one(f.t.Context(), someRange(x, rng))
			}
		})
	}
	readers.Wait()
	f.pull(xs...)
}

// onItsWay is what sockets may hold of streams that have come to what others have fetched: the origin counts what it has
// written, and where the disk is slow the daemon has not read it. Receive buffers grow to 32 MiB.
const onItsWay = 24 * mib

// account holds what was fetched of a blob, by its pieces, against what was left of it.
func (f *filler) account(how ending, left, before *remnant, again []int64) {
	f.t.Helper()
	x := left.x
	total, missing := sum(again), x.size()-left.bytes(how.cut)
	if before.ended() && total == 0 {
		return // it had come on record
	}
	for i, n := range again {
		off, end := x.bounds(i)
		switch has := left.has(i, how.cut); {
		case has == end-off && n > 0:
			f.t.Errorf("after %s piece %d of %s was there, and %d bytes of it were fetched", how.name, i, x.path(), n)
		case n < end-off-has:
			f.t.Errorf("after %s %d bytes of piece %d of %s were there, and only %d were fetched", how.name, has, i, x.path(), n)
		}
	}
	if float64(total) > 1.02*float64(missing)+onItsWay {
		f.t.Errorf("after %s %d bytes of %s were fetched, where %d of %d were missing", how.name, total, x.path(), missing, x.size())
	}
}
