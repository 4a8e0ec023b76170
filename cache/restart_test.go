package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// partial leaves n bytes of a blob as an unfinished fill in a closed cache.
func partial(t *testing.T, data []byte, n int) (dir string) {
	t.Helper()
	o, c := newOrigin(), open(t, Options{})
	d := o.put(data)
	o.blob = func(k int, _ oci.Digest, _, _ int64) (*Body, error) {
		if k > 1 {
			return nil, oci.ErrDenied
		}
		return body(int64(len(data)), 0, step{data: data[:n]}, step{err: errReset})
	}
	if got, _, err := c.get(o.repo("a"), d); err == nil {
		t.Fatalf("%d bytes", len(got))
	}
	c.close()
	return c.o.Dir
}

// TestResume: what an earlier process fetched is not fetched again.
func TestResume(t *testing.T) {
	t.Parallel()
	data := noise(2*mib, 1)
	dir := partial(t, data, mib)
	o, c := newOrigin(), open(t, Options{Dir: dir})
	d := o.put(data)
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	if len(o.ranges) != 1 || o.ranges[0] != "1048576-2097152" || c.Stats().ResumedBytes != mib {
		t.Errorf("asked %v, resumed %d", o.ranges, c.Stats().ResumedBytes)
	}
	c.account()
}

// TestResumeWrong: what lies there is no beginning of the blob, in one way or
// another. The reader may be cut, never deceived; the next one gets it all.
func TestResumeWrong(t *testing.T) {
	t.Parallel()
	data := noise(2*mib, 2)
	for name, spoil := range map[string]func(f *os.File) error{
		"a flipped bit": func(f *os.File) error { _, err := f.WriteAt([]byte{^data[5]}, 5); return err },
		"as long as the blob, and wrong": func(f *os.File) error {
			_, err := f.WriteAt(make([]byte, mib), mib)
			return err
		},
		"longer than the blob": func(f *os.File) error { return f.Truncate(3 * mib) },
		"whole":                func(f *os.File) error { _, err := f.WriteAt(data[mib:], mib); return err },
		"empty":                func(f *os.File) error { return f.Truncate(0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, d := partial(t, data, mib), oci.FromBytes(data)
			f, err := os.OpenFile(filepath.Join(dir, "fills/sha256", d.Hex()[:2], d.Hex()), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(spoil(f), f.Close()); err != nil {
				t.Fatal(err)
			}
			o, c := newOrigin(), open(t, Options{Dir: dir})
			o.put(data)
			for range 2 {
				got, _, err := c.get(o.repo("a"), d)
				if err == nil && oci.FromBytes(got) != d || err != nil && len(got) >= len(data) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
			c.idle()
			c.want(o.repo("a"), d, OutcomeHit)
			c.account()
			if name == "whole" && o.count("blob") != 0 {
				t.Errorf("upstream sent %v", o.ranges)
			}
			if o.blamed != 0 {
				t.Error("upstream was blamed for what lay here")
			}
		})
	}
}

// TestWholeLeftoverNeedsAProof: its bytes are right, and not everybody's.
func TestWholeLeftoverNeedsAProof(t *testing.T) {
	t.Parallel()
	data := noise(2*mib, 3)
	dir, d := partial(t, data, mib), oci.FromBytes(data)
	file := filepath.Join(dir, "fills/sha256", d.Hex()[:2], d.Hex())
	if err := errors.Join(os.WriteFile(file, data, 0o600), os.Chmod(file, 0o600)); err != nil { // without the mark of public content
		t.Fatal(err)
	}
	stranger, holder, c := newOrigin(), newOrigin(), open(t, Options{Dir: dir})
	holder.put(data)
	holder.private = true
	if got, _, err := c.get(stranger.repo("stranger"), d); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a stranger got %d bytes, %v", len(got), err)
	}
	c.want(holder.repo("holder"), d, OutcomeHit)
	c.idle()
	if got, _, err := c.get(stranger.repo("stranger"), d); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a stranger got %d bytes, %v", len(got), err)
	}
	c.account()
}

// TestWholePublicLeftover: what was verified and delivered before a kill, and
// needed no credentials, is served without upstream.
func TestWholePublicLeftover(t *testing.T) {
	t.Parallel()
	data := noise(2*mib, 3)
	dir, d := partial(t, data, mib), oci.FromBytes(data)
	if err := os.WriteFile(filepath.Join(dir, "fills/sha256", d.Hex()[:2], d.Hex()), data, 0o600); err != nil {
		t.Fatal(err)
	}
	o, c := newOrigin(), open(t, Options{Dir: dir})
	c.want(o.repo("a"), d, OutcomeHit)
	c.idle()
	c.want(o.repo("a"), d, OutcomeHit)
	if n := o.count("blob") + o.count("info"); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
	c.account()
}

// snapshot copies a cache directory as a kill would leave it.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // renamed meanwhile
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || e.IsDir() {
			return errors.Join(err, os.MkdirAll(filepath.Join(to, rel), 0o700))
		}
		from, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer from.Close()
		f, err := os.OpenFile(filepath.Join(to, rel), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, from)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	// It stands for the directory itself, not for a copy of it.
	boot, err := os.ReadFile(filepath.Join(dir, "boot"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.Stat(filepath.Join(to, "cistern.lock"))
	if err != nil {
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(string(boot), " ")
	if err := os.WriteFile(filepath.Join(to, "boot"), fmt.Appendf(nil, "%s %d\n", id, lock.Sys().(*syscall.Stat_t).Ino), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestKill: what was checkpointed is a hit in the next process; what was not is
// resumed or adopted; a blob in the middle goes on where it stood.
func TestKill(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	old, fresh, half := noise(2*mib, 4), noise(2*mib+1, 5), noise(2*mib+2, 6)
	dold, dfresh, dhalf := o.put(old), o.put(fresh), o.put(half)
	o.tag("v1", o.image(dold))
	if _, err := c.tagged(o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	c.want(o.repo("a"), dold, OutcomeMiss)
	c.idle()
	c.checkpoint()
	c.syncing.Lock() // no more checkpoints from here on
	c.want(o.repo("a"), dfresh, OutcomeMiss)
	never := make(chan struct{})
	o.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
		return body(int64(len(half)), 0, step{data: half[:mib]}, step{wait: never})
	}
	content, err := c.Blob(t.Context(), o.repo("a"), dhalf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, content.Reader, mib); err != nil {
		t.Fatal(err)
	}
	dir := snapshot(t, c.o.Dir)
	content.Close()
	c.syncing.Unlock()

	next, c2 := newOrigin(), open(t, Options{Dir: dir})
	for _, data := range [][]byte{old, fresh, half} {
		next.put(data)
	}
	if m, err := c2.tagged(next, "v1", 1<<40); err != nil || m.Outcome != OutcomeHit {
		t.Errorf("the tag: %+v, %v", m, err)
	}
	c2.want(next.repo("a"), dold, OutcomeHit)
	c2.want(next.repo("a"), dfresh, OutcomeHit)
	c2.want(next.repo("a"), dhalf, OutcomeMiss)
	c2.idle()
	if len(next.ranges) != 1 || next.ranges[0] != fmt.Sprintf("1048576-%d", len(half)) {
		t.Errorf("fetched again: %v", next.ranges)
	}
	c2.account()
}

// TestOtherBoot: unsynced bytes of another boot may be anything.
func TestOtherBoot(t *testing.T) {
	t.Parallel()
	data := noise(2*mib, 7)
	dir := partial(t, data, mib)
	if err := os.WriteFile(filepath.Join(dir, "boot"), []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, c := newOrigin(), open(t, Options{Dir: dir})
	d := o.put(data)
	c.want(o.repo("a"), d, OutcomeMiss)
	if o.ranges[0] != "0--1" {
		t.Errorf("asked %v", o.ranges)
	}
	c.idle()
	c.account()
}

// TestIndexLost: without an index nothing here is trusted before it was hashed,
// all of it is counted before anything is added, and what needed credentials
// needs a proof. FAULTS row 36.
func TestIndexLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(path string) error{
		"missing": os.Remove,
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"garbage": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 64<<10), 0o600) },
		"private": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c := newOrigin(), open(t, Options{})
			o.private = name == "private"
			good, bad := noise(3*mib, 8), noise(3*mib, 9)
			dgood, dbad := o.put(good), o.put(bad)
			m := o.tag("v1", o.image(dgood))
			if _, err := c.tagged(o, "v1", 0); err != nil {
				t.Fatal(err)
			}
			c.want(o.repo("a"), dgood, OutcomeMiss)
			c.want(o.repo("a"), dbad, OutcomeMiss)
			c.close()
			wrong := bytes.Clone(bad)
			wrong[mib] ^= 1
			if err := errors.Join(lose(filepath.Join(c.o.Dir, "index.db")), os.WriteFile(c.path("blobs", dbad), wrong, 0o600)); err != nil {
				t.Fatal(err)
			}
			next := open(t, Options{Dir: c.o.Dir})
			if keeps := next.keeping(); keeps && next.Stats().Rebuild.Bytes < 6*mib {
				t.Errorf("it keeps new blobs while %d bytes are counted and more lie there", next.Stats().Rebuild.Bytes)
			}
			var wg sync.WaitGroup
			for _, d := range []oci.Digest{dgood, dbad} {
				wg.Go(func() {
					if got, _, err := next.get(o.repo("a"), d); err != nil || oci.FromBytes(got) != d {
						t.Errorf("while it is built anew: %d bytes, %v", len(got), err)
					}
				})
			}
			wg.Wait()
			until(t, "the index is built anew", func() bool { return !next.rebuild.on.Load() })
			next.idle()
			stranger := newOrigin()
			if got, _, err := next.get(stranger.repo("stranger"), dgood); o.private != errors.Is(err, oci.ErrNotFound) {
				t.Errorf("a stranger got %d bytes, %v", len(got), err)
			}
			for _, d := range []oci.Digest{dgood, dbad} {
				if got, _, err := next.get(o.repo("a"), d); err != nil || oci.FromBytes(got) != d {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
			if got, err := next.tagged(o, "v1", 1<<40); err != nil || got.Digest != m {
				t.Errorf("%v", err)
			}
			next.idle()
			if _, err := os.Lstat(filepath.Join(c.o.Dir, "rebuild")); err == nil {
				t.Error("the mark is there still")
			}
			if name != "garbage" { // there the old index lies beside it, too
				next.account()
			}
		})
	}
}

// TestRebuildGoesOn: a process that ends while it rebuilds leaves the rest to
// the next.
func TestRebuildGoesOn(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	d := o.put(noise(3*mib, 10))
	c.want(o.repo("a"), d, OutcomeMiss)
	c.close()
	if err := errors.Join(os.Remove(filepath.Join(c.o.Dir, "index.db")), os.WriteFile(filepath.Join(c.o.Dir, "rebuild"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	x, err := index.Open(filepath.Join(c.o.Dir, "index.db"), index.Options{}) // the process before got no further
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	next := open(t, Options{Dir: c.o.Dir})
	until(t, "it is recorded", func() bool { _, ok := next.findStored(d); return ok })
	until(t, "it is at its end", func() bool { return !next.rebuild.on.Load() })
	next.account()
}

// TestReady: a disk that takes nothing is seen, and so is its recovery, without
// a new blob.
func TestReady(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	if err := c.Ready(); err != nil {
		t.Fatal(err)
	}
	fills := filepath.Join(c.o.Dir, "fills")
	if err := errors.Join(os.Rename(fills, fills+"-away"), os.WriteFile(fills, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	c.want(o.repo("a"), o.put(noise(3*mib, 11)), OutcomePass)
	if err := c.Ready(); !errors.Is(err, blob.ErrDisk) {
		t.Errorf("%v", err)
	}
	if c.Stats().Degraded == "" {
		t.Error("not degraded")
	}
	if err := errors.Join(os.Remove(fills), os.Rename(fills+"-away", fills)); err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(); err != nil || c.Stats().Degraded != "" {
		t.Errorf("%v, %q", err, c.Stats().Degraded)
	}
	c.want(o.repo("a"), o.put(noise(3*mib, 12)), OutcomeMiss)
	c.idle()
}

// TestFloors: large blobs go first, small ones and manifests stay above their
// floors.
func TestFloors(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{Limit: 64 * mib})
	var small []oci.Digest
	for i := range 11 {
		d := o.put(noise(50<<10, uint64(200+i)))
		small = append(small, d)
		c.want(o.repo("a"), d, OutcomeMiss)
	}
	m := o.tag("v1", o.image(small...))
	if _, err := c.tagged(o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	c.idle()
	c.checkpoint()
	for i := range 40 {
		d := o.put(noise(4*mib, uint64(300+i)))
		if got, _, err := c.get(o.repo("a"), d); err != nil || oci.FromBytes(got) != d {
			t.Error(err)
		}
		c.idle()
		c.checkpoint()
	}
	for _, d := range append(small, m) {
		if _, here := c.findStored(d); !here {
			t.Errorf("%s was evicted", d)
		}
	}
	if s := c.Stats(); s.EvictedBlobs < 20 || s.Bytes > s.Limit {
		t.Errorf("%+v", s)
	}
	c.account()
}
