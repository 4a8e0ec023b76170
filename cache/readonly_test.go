package cache

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cistern/cache/index"
	"cistern/internal/durable"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// readOnly answers what changes anything as a file system does that is mounted
// for reading only.
func readOnly(op durabletest.Op) *durabletest.Fault {
	switch op.Kind {
	case "create", "mkdir", "rename", "remove", "write", "truncate":
		return &durabletest.Fault{Err: &fs.PathError{Op: op.Kind, Path: op.Name, Err: syscall.EROFS}}
	}
	return nil
}

// faultyDir has faults on a real directory.
func faultyDir(t *testing.T, dir string, choose func(durabletest.Op) *durabletest.Fault) Options {
	t.Helper()
	real, err := durable.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Dir: dir, fs: &durabletest.Faulty{FS: real, Choose: choose}, indexDir: dir}
}

// TestReadOnlyAtStart: what is recorded is served, tags too, and what is not is
// streamed; a file in fills/ is not believed; nothing gathers in memory, and
// nothing is written. FAULTS row 32.
func TestReadOnlyAtStart(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, manifest, blobs := stocked(t, o)
	c.close()
	doubtful := blobs[2]
	fill := c.path("fills", doubtful)
	if err := os.MkdirAll(filepath.Dir(fill), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.path("blobs", doubtful), fill); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fill, make([]byte, len(o.blobs[doubtful])), 0o600); err != nil { // as a power cut leaves it
		t.Fatal(err)
	}
	before, err := os.ReadFile(c.o.indexPath())
	if err != nil {
		t.Fatal(err)
	}

	next := open(t, faultyDir(t, c.o.Dir, readOnly))
	repo := o.repo("a")
	if m, err := next.tagged(o, "v1", 1<<40); err != nil || m.Digest != manifest || m.Outcome != OutcomeHit {
		t.Errorf("the tag: %+v, %v", m, err)
	}
	for range 2 {
		next.want(repo, blobs[0], OutcomeHit)
		next.want(repo, blobs[1], OutcomeHit)
		if data, outcome, err := next.get(repo, doubtful); err != nil || oci.FromBytes(data) != doubtful || outcome == OutcomeHit {
			t.Errorf("%d bytes, %v, %v", len(data), outcome, err)
		}
	}
	o.private = true
	for i := range 5 {
		big, small := o.put(noise(2*mib, uint64(50+i))), o.put(noise(500, uint64(60+i)))
		tag := fmt.Sprint("new", i)
		o.tag(tag, o.image(big, small))
		if _, err := next.tagged(o, tag, 0); err != nil {
			t.Error(err)
		}
		next.want(o.repo("private"), big, OutcomePass)
		if data, _, err := next.get(o.repo("private"), small); err != nil || oci.FromBytes(data) != small {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
	next.idle()
	if n := len(next.touched) + len(next.newTags) + len(next.newGrant) + len(next.goneTags) + len(next.pending); n != 0 {
		t.Errorf("%d entries wait for a checkpoint that never comes", n)
	}
	if err := next.Ready(); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("ready: %v", err)
	}
	if _, err := next.Remove(oci.Reference{Repository: repo.Repository, Tag: "v1"}); err == nil {
		t.Error("removed from what cannot be written")
	}
	next.close()
	if after, err := os.ReadFile(c.o.indexPath()); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the index was written: %v", err)
	}

	again := open(t, Options{Dir: c.o.Dir})
	for _, d := range blobs[:2] {
		again.want(repo, d, OutcomeHit)
	}
	again.idle()
	again.want(repo, o.put(noise(2*mib, 70)), OutcomeMiss)
	again.idle()
	again.account()
}

// TestReadOnlyWithoutIndex: then nobody knows what lies here, and all is
// streamed.
func TestReadOnlyWithoutIndex(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, _, blobs := stocked(t, o)
	c.close()
	if err := os.Remove(c.o.indexPath()); err != nil {
		t.Fatal(err)
	}
	next := open(t, faultyDir(t, c.o.Dir, readOnly))
	next.want(o.repo("a"), blobs[0], OutcomePass)
	if next.Ready() == nil {
		t.Error("ready")
	}
}

// TestReadOnlyInUse: the file system becomes read-only under an open cache. Hits
// go on, the rest is streamed, and the index is not given up: when it can be
// written again it takes what has waited. FAULTS row 32.
func TestReadOnlyInUse(t *testing.T) {
	t.Parallel()
	var on atomic.Bool
	o := newOrigin()
	co := faultyDir(t, t.TempDir(), func(op durabletest.Op) *durabletest.Fault {
		if on.Load() {
			return readOnly(op)
		}
		return nil
	})
	co.index.Hook = func(op string, call func() error) error {
		if op == "apply" && on.Load() {
			return &fs.PathError{Op: "write", Path: indexName, Err: syscall.EROFS}
		}
		return call()
	}
	c := open(t, co)
	x := c.idx.Load()
	repo, blobs := o.repo("a"), []oci.Digest{o.put(noise(3*mib, 71)), o.put(noise(1000, 72))}
	for _, d := range blobs {
		c.want(repo, d, OutcomeMiss)
	}
	c.idle()
	o.tag("v1", o.image(blobs...))
	on.Store(true)
	if m, err := c.tagged(o, "v1", 0); err != nil || m.Outcome != OutcomeMiss {
		t.Errorf("%+v, %v", m, err)
	}
	for range 3 {
		for _, d := range blobs {
			c.want(repo, d, OutcomeHit)
		}
		c.want(repo, o.put(noise(2*mib, 73)), OutcomePass)
		if c.checkpoint() {
			t.Error("a checkpoint on a disk that takes nothing")
		}
		if why := c.Stats().Degraded; !strings.Contains(why, "read-only") || c.Ready() == nil {
			t.Errorf("degraded: %q, ready: %v", why, c.Ready())
		}
	}
	on.Store(false)
	if err := c.Ready(); err != nil || !c.checkpoint() || c.idx.Load() != x {
		t.Errorf("ready: %v; another index: %v", err, c.idx.Load() != x)
	}
	for _, d := range blobs {
		if _, ok, err := x.Get(d); !ok || err != nil {
			t.Errorf("%s has no record: %v", d, err)
		}
	}
	ref := oci.Reference{Repository: repo.Repository, Tag: "v1"}
	if _, ok, err := x.Tag(ref); !ok || err != nil {
		t.Errorf("the tag is not recorded: %v", err)
	}
	c.want(repo, o.put(noise(2*mib, 74)), OutcomeMiss)
	c.idle()
	o.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
	for _, d := range blobs {
		c.want(repo, d, OutcomeHit)
	}
	c.account()
}

// TestWaitingIsBounded: what a disk does not take for days does not fill memory.
func TestWaitingIsBounded(t *testing.T) {
	t.Parallel()
	c := open(t, Options{index: index.Options{NoSync: true}})
	c.syncing.Lock() // no checkpoints
	for i := range 2 * grantsKept {
		d := oci.FromBytes(fmt.Append(nil, i))
		ref := oci.Reference{Repository: oci.Repository{Upstream: "docker.io", Name: "a"}, Tag: fmt.Sprint("v", i)}
		c.newTags[ref] = index.Tag{Reference: ref, Target: oci.Descriptor{Digest: d}}
		c.newGrant[d] = map[oci.Repository]time.Time{ref.Repository: {}}
		ref.Tag = fmt.Sprint("w", i)
		c.goneTags[ref] = struct{}{}
	}
	c.putBack()
	if len(c.newTags) != tagsKept || len(c.goneTags) != tagsKept || len(c.newGrant) != grantsKept {
		t.Errorf("%d tags, %d deleted, %d grants", len(c.newTags), len(c.goneTags), len(c.newGrant))
	}
	clear(c.newTags)
	clear(c.goneTags)
	clear(c.newGrant)
	c.syncing.Unlock()
}
