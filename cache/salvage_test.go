package cache

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

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
	d := o.tag("v1", image())
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
