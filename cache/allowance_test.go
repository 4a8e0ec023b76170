package cache

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cistern/cache/bandwidth"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// limited is a repository of the origin whose upstream has a limit of its own, in
// bytes per second.
func (o *origin) limited(upstream string, rate int64) *Repository {
	r := o.repo("a")
	r.Upstream, r.Policy.Bandwidth = upstream, bandwidth.New(rate)
	return r
}

// took expects that so many bytes took as long as a limit says: none came for
// nothing but what may come at once, and none waited for more.
func took(t *testing.T, since time.Time, size, rate int64) {
	t.Helper()
	want := time.Duration(float64(size-rate/10) / float64(rate) * float64(time.Second))
	if got := time.Since(since); got < want || got > want+want/8 {
		t.Errorf("%d bytes at %d a second took %s, expected %s", size, rate, got, want)
	}
}

// slow is a cache in a bubble whose index does not sync.
func slow(t *testing.T, o Options) *rig {
	o.index = index.Options{NoSync: true}
	return open(t, o)
}

// TestRateOfAllWays: whatever way a blob's bytes come, they fall under the limit, each
// once.
func TestRateOfAllWays(t *testing.T) {
	t.Parallel()
	const size = 8 * mib
	for name, way := range map[string]struct {
		o    Options
		miss RangeMiss
		size int
		read func(r *rig, repo *Repository, d oci.Digest, data []byte)
	}{
		"fill": {size: size, read: func(r *rig, repo *Repository, d oci.Digest, _ []byte) { r.want(repo, d, OutcomeMiss) }},
		"no room": {size: size, o: Options{Limit: 2 * mib}, read: func(r *rig, repo *Repository, d oci.Digest, _ []byte) {
			r.want(repo, d, OutcomePass)
		}},
		"extents": {size: 4 * size, read: func(r *rig, repo *Repository, d oci.Digest, data []byte) {
			for off := int64(0); off < 4*size; off += 4 * mib {
				r.part(repo, d, data, Range{Off: off, End: off + mib})
			}
		}},
		"pass": {size: 4 * size, miss: RangePass, read: func(r *rig, repo *Repository, d oci.Digest, data []byte) {
			for off := int64(0); off < 4*size; off += 4 * mib {
				r.part(repo, d, data, Range{Off: off + 1, End: off + 1 + mib})
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin()
				way.o.Dir = dir
				r := slow(t, way.o)
				data := noise(way.size, 200)
				d, repo := o.put(data), o.limited("docker.io", mib)
				repo.Policy.RangeMiss = way.miss
				since := time.Now()
				way.read(r, repo, d, data)
				took(t, since, size, mib)
				if held := r.Stats().Held["docker.io"]; held < 6 {
					t.Errorf("it says that streams waited for %v s", held)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// TestRateOfSkipped: what comes again because upstream has no ranges falls under the
// limit as well.
func TestRateOfSkipped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		data := noise(8*mib, 201)
		o.blob = func(n int, _ oci.Digest, _, _ int64) (*Body, error) {
			if n == 1 {
				return body(8*mib, 0, step{data: data[:6*mib]}, step{err: io.ErrUnexpectedEOF})
			}
			b, err := body(8*mib, 0, step{data: data})
			b.Whole = true
			return b, err
		}
		r := slow(t, Options{Dir: dir, Bandwidth: bandwidth.New(mib)})
		since := time.Now()
		r.want(o.repo("a"), o.put(data), OutcomeMiss)
		took(t, since, 14*mib, mib)
	})
}

// TestRateOfSmallBlobs: small blobs pay for what they are.
func TestRateOfSmallBlobs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		r, repo := slow(t, Options{Dir: dir, Bandwidth: bandwidth.New(mib)}), o.repo("a")
		since := time.Now()
		for i := range 400 {
			r.want(repo, o.put(noise(1<<10, uint64(i))), OutcomeMiss)
		}
		took(t, since, 400<<10, mib)
	})
}

// TestRateOfAllUpstreams: fills of all upstreams share what is allowed to them together,
// each the same, and what one upstream's own limit keeps from it the others get.
func TestRateOfAllUpstreams(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		r := slow(t, Options{Dir: dir, Bandwidth: bandwidth.New(4 * mib)})
		own, none := o.limited("a.io", mib), o.limited("b.io", 0)
		var wg sync.WaitGroup
		pull := func(repo *Repository, size int64, seed uint64, after time.Duration) {
			d := o.put(noise(int(size), seed))
			since := time.Now()
			wg.Go(func() {
				r.want(repo, d, OutcomeMiss)
				if got := time.Since(since); got < after-after/8 || got > after+after/16 {
					t.Errorf("%d bytes from %s took %s, expected %s", size, repo.Upstream, got, after)
				}
			})
		}
		pull(own, 8*mib, 210, 8*time.Second)
		pull(none, 12*mib, 211, 8*time.Second)
		pull(none, 12*mib, 212, 8*time.Second)
		wg.Wait()
	})
}

// TestRateBackground: a fill that its readers have left gives way to one that
// somebody waits for, and goes on when that is done.
func TestRateBackground(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		r := slow(t, Options{Dir: dir, Bandwidth: bandwidth.New(mib)})
		left, wanted := o.put(noise(8*mib, 220)), o.put(noise(8*mib, 221))
		c, err := r.Blob(t.Context(), o.repo("a"), left)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, c.Reader, 1<<16); err != nil {
			t.Fatal(err)
		}
		c.Close()
		since := time.Now()
		r.want(o.repo("a"), wanted, OutcomeMiss)
		took(t, since, 8*mib*16/15, mib)
		for _, f := range r.Fills() {
			if f.OnDisk > mib {
				t.Errorf("%d bytes of what nobody waits for came before", f.OnDisk)
			}
		}
		time.Sleep(8 * time.Second)
		r.want(o.repo("a"), left, OutcomeHit)
	})
}

// TestRateStops: whoever waits for bandwidth leaves when the cache closes, and when
// nobody wants the fill.
func TestRateStops(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		r := slow(t, Options{Dir: dir, StopAbandoned: true, Bandwidth: bandwidth.New(32 << 10)})
		for i := range uint64(8) {
			c, err := r.Blob(t.Context(), o.repo("a"), o.put(noise(8*mib, 230+i)))
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		time.Sleep(30 * time.Second)
		if n := len(r.Fills()); n != 0 {
			t.Errorf("%d fills go on", n)
		}
		c, err := r.Blob(t.Context(), o.repo("a"), o.put(noise(8*mib, 240)))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		since := time.Now()
		r.close()
		if past := time.Since(since); past > time.Second {
			t.Errorf("closing took %s", past)
		}
	})
}

// TestRateAndStreams: where a limit holds a host's rate down, more streams are not
// tried.
func TestRateAndStreams(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		r, repo := slow(t, Options{Dir: dir}), o.limited("docker.io", 4*mib)
		repo.Policy.MaxStreams = 8
		r.want(repo, o.put(noise(64*mib, 250)), OutcomeMiss)
		if got := o.since(); got != "0--1" {
			t.Errorf("upstream was asked for %q", got)
		}
	})
}
