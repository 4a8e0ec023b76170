package cache

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// TestTagsAreTakenBesideServing: nobody waits for the tags of a broken index but
// who asks for a tag.
func TestTagsAreTakenBesideServing(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, manifest, blobs := stocked(t, o)
	c.close()
	spoil(t, c.o.indexPath(), true)
	gate, blocked := make(chan struct{}), make(chan struct{})
	var applies atomic.Int64
	next := Options{Dir: c.o.Dir}
	next.index.Hook = func(op string, call func() error) error {
		if op == "apply" && applies.Add(1) == 1 { // the tags
			close(blocked)
			<-gate
		}
		return call()
	}
	n := open(t, next)
	<-blocked
	o.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
	for _, d := range blobs {
		n.want(o.repo("a"), d, OutcomeHit)
	}
	asked := make(chan bool, 1)
	go func() {
		tag, ok := n.tag(oci.Reference{Repository: o.repo("a").Repository, Tag: "v1"})
		asked <- ok && tag.Target.Digest == manifest
	}()
	for start := time.Now(); len(asked) == 0 && time.Since(start) < 100*time.Millisecond; { // more than a look-up takes
		runtime.Gosched()
	}
	close(gate)
	if !<-asked {
		t.Error("the tag was lost")
	}
	n.idle()
	n.rebuilt()
	n.account()
}

// TestSalvageGoesOn: a process that ended while it rebuilt leaves the labels and
// tags of the old index to the next.
func TestSalvageGoesOn(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	o.private = true
	c, manifest, blobs := stocked(t, o)
	if err := c.store.MarkUnproven(); err != nil {
		t.Fatal(err)
	}
	c.close()
	if err := os.Rename(c.o.indexPath(), c.o.indexPath()+brokenSuffix); err != nil {
		t.Fatal(err)
	}
	next := open(t, Options{Dir: c.o.Dir})
	next.hasWithoutUpstream(o, manifest, blobs)
	next.idle()
	next.rebuilt()
	next.account()
}

// TestProofUnderWay: the labels of the old index are not given up while a request
// proves a file that it has begun with before all was counted.
func TestProofUnderWay(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	o.private = true
	c, repo, d := open(t, Options{}), o.repo("a"), o.put(noise(3*mib, 75))
	c.want(repo, d, OutcomeMiss)
	c.idle()
	c.close()
	spoil(t, c.o.indexPath(), false)
	count, read, reading := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var reads atomic.Int64
	next := open(t, faultyDir(t, c.o.Dir, func(op durabletest.Op) *durabletest.Fault {
		switch {
		case op.Kind == "readdir" && strings.HasPrefix(op.Name, "blobs/") && strings.Count(op.Name, "/") == 2:
			return &durabletest.Fault{Stall: count}
		case op.Kind == "open" && strings.HasPrefix(op.Name, "blobs/") && strings.HasSuffix(op.Name, d.Hex()) && reads.Add(1) == 1:
			close(reading)
			return &durabletest.Fault{Stall: read}
		}
		return nil
	}))
	o.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
	got := make(chan error, 1)
	go func() {
		data, outcome, err := next.get(repo, d)
		if err == nil && (oci.FromBytes(data) != d || outcome != OutcomeHit) {
			err = errors.New("not a hit")
		}
		got <- err
	}()
	<-reading
	close(count)
	for start := time.Now(); next.rebuild.on.Load() && time.Since(start) < 300*time.Millisecond; { // more than it takes
		runtime.Gosched()
	}
	close(read)
	if err := <-got; err != nil {
		t.Error(err)
	}
	next.idle()
	next.rebuilt()
	next.checkpoint()
	if rec, ok, err := next.idx.Load().Get(d); !ok || rec.Origin != "docker.io" {
		t.Errorf("%+v, %v, %v", rec, ok, err)
	}
	if ok, err := next.idx.Load().Granted(repo.Repository, d); !ok {
		t.Errorf("the grant is lost: %v", err)
	}
}

// TestGrantWaitsForItsRecord: a checkpoint while a private manifest is being
// written does not lose who may have it.
func TestGrantWaitsForItsRecord(t *testing.T) {
	t.Parallel()
	var c *rig
	var creates atomic.Int64
	o := newOrigin()
	o.private = true
	c = faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "create" && strings.HasPrefix(op.Name, "fills/") && creates.Add(1) == 1 {
			c.checkpoint()
		}
		return nil
	})
	d := o.tag("v1", o.image())
	if _, err := c.tagged(o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	c.checkpoint()
	if creates.Load() == 0 {
		t.Fatal("nothing was written")
	}
	if ok, err := c.idx.Load().Granted(o.repo("a").Repository, d); !ok {
		t.Errorf("the grant is lost: %v", err)
	}
	if n := len(c.newGrant); n != 0 {
		t.Errorf("%d wait", n)
	}
}
