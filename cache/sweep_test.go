package cache

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"cistern/internal/oci"
)

// lies tells whether anything of a fill lies on disk.
func (r *rig) lies(d oci.Digest) bool {
	r.t.Helper()
	lies := false
	for _, name := range []string{r.path("fills", d), r.path("fills", d) + ".pieces"} {
		if _, err := os.Stat(name); err == nil {
			lies = true
		} else if !errors.Is(err, fs.ErrNotExist) {
			r.t.Error(err)
		}
	}
	return lies
}

// TestSweep: what fills left goes when nobody has touched it for long enough, with
// its piece state and its space, and nothing else does; the file's modification time
// says when that was, also if another process wrote it.
func TestSweep(t *testing.T) {
	t.Parallel()
	now := time.Now()
	o, c := newOrigin(), open(t, Options{})
	datas := [][]byte{noise(8*mib, 160), noise(8*mib, 161), noise(8*mib, 162), noise(3*mib, 163)}
	var ds []oci.Digest
	for _, data := range datas {
		ds = append(ds, o.put(data))
	}
	for i := range 3 {
		c.part(o.repo("a"), ds[i], datas[i], Range{Off: 5 * mib, End: 5*mib + 1}, Range{Off: 0, End: 1})
	}
	c.want(o.repo("a"), ds[3], OutcomeMiss)
	c.close()
	if !c.lies(ds[0]) || !c.lies(ds[1]) || !c.lies(ds[2]) {
		t.Fatal("nothing was left")
	}
	date := func(d oci.Digest, age time.Duration) {
		for _, name := range []string{c.path("fills", d), c.path("fills", d) + ".pieces"} {
			if err := os.Chtimes(name, now.Add(-age), now.Add(-age)); err != nil {
				t.Fatal(err)
			}
		}
	}
	date(ds[0], 30*time.Hour)
	date(ds[1], 10*time.Hour)
	date(ds[2], 30*time.Hour)
	if err := os.Chtimes(c.path("blobs", ds[3]), now.Add(-90*time.Hour), now.Add(-90*time.Hour)); err != nil {
		t.Fatal(err)
	}

	next := open(t, Options{Dir: c.o.Dir, FillsKept: 40 * time.Hour})
	o.since()
	next.part(o.repo("a"), ds[2], datas[2], Range{Off: 0, End: 9}) // from what was kept
	if got := o.since(); got != "" {
		t.Errorf("upstream was asked for %s", got)
	}
	before := next.store.Usage().Used
	next.sweep(now.Add(9 * time.Hour)) // the first is 39 hours old
	if !next.lies(ds[0]) || !next.lies(ds[1]) || !next.lies(ds[2]) {
		t.Error("a fill went too early")
	}
	next.sweep(now.Add(11 * time.Hour))
	if next.lies(ds[0]) || !next.lies(ds[1]) || !next.lies(ds[2]) {
		t.Errorf("after 41, 21 and 41 hours, of which the last is in use: %v, %v, %v", next.lies(ds[0]), next.lies(ds[1]), next.lies(ds[2]))
	}
	if freed := before - next.store.Usage().Used; freed < 2*mib || freed > 2*mib+64<<10 {
		t.Errorf("%d bytes were given back, of 2 MiB", freed)
	}
	next.want(o.repo("a"), ds[3], OutcomeHit) // a blob is not swept
	next.close()

	last := open(t, Options{Dir: c.o.Dir}) // keeps them for good
	last.sweep(now.Add(9000 * time.Hour))
	if !last.lies(ds[1]) || !last.lies(ds[2]) {
		t.Error("a fill went that is to be kept for good")
	}
}

// TestSweepAfterUse: a fill that somebody has gone on with is as old as that use,
// whether anything was written or not, for this process and the next.
func TestSweepAfterUse(t *testing.T) {
	t.Parallel()
	dir := partial(t, noise(2*mib, 164), mib)
	o := newOrigin()
	d := o.put(noise(2*mib, 164))
	o.blob = func(int, oci.Digest, int64, int64) (*Body, error) { return nil, oci.ErrDenied }
	c := open(t, Options{Dir: dir, FillsKept: time.Hour})
	if touched, kept := c.store.Touched(d); !kept || time.Since(touched) > time.Minute {
		t.Fatalf("%v, %v", touched, kept)
	}
	c.close()
	if old := time.Now().Add(-30 * time.Minute); os.Chtimes(c.path("fills", d), old, old) != nil {
		t.Fatal("the file's time cannot be set")
	}
	c = open(t, Options{Dir: dir, FillsKept: time.Hour})
	if _, _, err := c.get(o.repo("a"), d); err == nil {
		t.Fatal("no error")
	}
	c.idle()
	for range 2 { // in this process, and in the next
		c.sweep(time.Now().Add(40 * time.Minute)) // 70 after the last byte came
		if !c.lies(d) {
			t.Fatal("it went, though it was in use")
		}
		c.close()
		c = open(t, Options{Dir: dir, FillsKept: time.Hour})
	}
	c.sweep(time.Now().Add(2 * time.Hour))
	if c.lies(d) {
		t.Error("it stays for ever")
	}
	c.account()
}

// TestSweepByItself: the cache sweeps when it opens, and every minute.
func TestSweepByItself(t *testing.T) {
	t.Parallel()
	dirs := []string{partial(t, noise(2*mib, 165), mib), partial(t, noise(2*mib, 165), mib)}
	d := oci.FromBytes(noise(2*mib, 165))
	synctest.Test(t, func(t *testing.T) {
		for i, age := range []time.Duration{2 * time.Hour, 30 * time.Minute} {
			c := &rig{Cache: &Cache{o: Options{Dir: dirs[i]}}, t: t}
			if at := time.Now().Add(-age); os.Chtimes(c.path("fills", d), at, at) != nil {
				t.Fatal("the file's time cannot be set")
			}
			c = open(t, Options{Dir: dirs[i], FillsKept: time.Hour})
			synctest.Wait()
			if c.lies(d) != (i == 1) {
				t.Errorf("at the start, after %v: there %v", age, c.lies(d))
			}
			time.Sleep(29 * time.Minute)
			synctest.Wait()
			if c.lies(d) != (i == 1) {
				t.Errorf("after %v and 29 minutes: there %v", age, c.lies(d))
			}
			time.Sleep(3 * time.Minute)
			synctest.Wait()
			if c.lies(d) {
				t.Errorf("after %v and 32 minutes it is still there", age)
			}
			c.close()
		}
	})
}

// TestSweepLeavesWhatIsInUse: neither a fill that goes on, nor one that became a
// blob since it was met, nor what the index knows as a blob.
func TestSweepLeavesWhatIsInUse(t *testing.T) {
	t.Parallel()
	data := noise(2*mib, 166)
	late := time.Now().Add(9000 * time.Hour)
	t.Run("a fill", func(t *testing.T) {
		t.Parallel()
		o, c := newOrigin(), open(t, Options{Dir: partial(t, data, mib), FillsKept: time.Hour})
		d, rest := o.put(data), make(chan struct{})
		o.blob = func(_ int, _ oci.Digest, off, _ int64) (*Body, error) {
			return body(2*mib, off, step{wait: rest, data: data[off:]})
		}
		content, err := c.Blob(t.Context(), o.repo("a"), d)
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		c.sweep(late)
		if !c.lies(d) || c.dropOne(d, time.Time{}) {
			t.Error("a fill under way was removed")
		}
		close(rest)
		if got, err := readAll(content); err != nil || oci.FromBytes(got) != d {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("a blob since", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { // no checkpoint comes
			o, c := newOrigin(), open(t, Options{FillsKept: time.Hour})
			d := o.put(data)
			c.want(o.repo("a"), d, OutcomeMiss)
			synctest.Wait()
			if !c.lies(d) {
				t.Fatal("it is in its place already")
			}
			c.sweep(late)
			if c.dropOne(d, time.Time{}) || !c.lies(d) {
				t.Error("a blob was removed as if it were a fill")
			}
			c.want(o.repo("a"), d, OutcomeHit)
			c.close()
		})
	})
	t.Run("a fill since", func(t *testing.T) {
		t.Parallel()
		c := open(t, Options{Dir: partial(t, data, mib), FillsKept: time.Hour})
		d := oci.FromBytes(data)
		if touched, _ := c.store.Touched(d); c.dropOne(d, touched) || !c.lies(d) {
			t.Error("a fill was removed that was touched since")
		}
		if touched, _ := c.store.Touched(d); !c.dropOne(d, touched.Add(1)) || c.lies(d) {
			t.Error("a fill stays that nobody has touched since")
		}
	})
	t.Run("a doubted blob", func(t *testing.T) {
		t.Parallel()
		c := open(t, Options{Dir: partial(t, data, mib), FillsKept: time.Hour})
		d := oci.FromBytes(data)
		c.mu.Lock()
		c.doubted[d] = c.newFill(Repository{}, d, nil, 1).record(mib)
		c.mu.Unlock()
		c.sweep(late)
		if !c.lies(d) {
			t.Error("what may be a blob was removed unproven")
		}
	})
}
