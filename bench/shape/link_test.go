package shape_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cistern/bench/shape"
)

func TestBucketKeepsItsRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b shape.Bucket
		start := time.Now()
		for range 1000 {
			time.Sleep(b.Reserve(1000, 1e6))
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("1 MB at 1 MB/s took %s", took)
		}
	})
}

// Timers that fire late must not cost bandwidth: the sender may catch up.
func TestBucketCatchesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b shape.Bucket
		start := time.Now()
		for range 1000 {
			if d := b.Reserve(1000, 1e6); d > 0 {
				time.Sleep(d + 900*time.Microsecond)
			}
		}
		if took := time.Since(start); took > 1002*time.Millisecond {
			t.Errorf("1 MB at 1 MB/s with late timers took %s", took)
		}
	})
}

// A link that was idle has saved nothing up.
func TestBucketHasNoBurst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b shape.Bucket
		time.Sleep(b.Reserve(1000, 1e6))
		time.Sleep(time.Hour)
		if d := b.Reserve(100_000, 1e6); d != 100*time.Millisecond {
			t.Errorf("after an hour, 100 kB at 1 MB/s wait %s, want 100ms", d)
		}
	})
}

func TestBucketWithoutLimit(t *testing.T) {
	t.Parallel()
	var b shape.Bucket
	if d := b.Reserve(1<<40, 0); d != 0 {
		t.Errorf("no limit waits %s", d)
	}
}

// pipes is a listener whose connections are made by dial, inside a bubble.
type pipes struct{ conns chan net.Conn }

func (p pipes) Accept() (net.Conn, error) { return <-p.conns, nil }
func (p pipes) Close() error              { return nil }
func (p pipes) Addr() net.Addr            { return nil }

// transfer sends size bytes over each of n connections of a link at once and
// returns when the last was done.
func transfer(t *testing.T, l *shape.Link, n, size int) time.Duration {
	t.Helper()
	p := pipes{conns: make(chan net.Conn)}
	ln := l.Listen(p)
	start := time.Now()
	var wg sync.WaitGroup
	for range n {
		near, far := net.Pipe()
		wg.Go(func() { p.conns <- near })
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if got, err := io.Copy(io.Discard, far); err != nil || got != int64(size) {
				t.Errorf("%d bytes arrived (%v), want %d", got, err, size)
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

func TestLinkRates(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spec  shape.Spec
		conns int
		want  time.Duration
	}{
		{"total, one", shape.Spec{Total: 10e6}, 1, 100 * time.Millisecond},
		{"total, four share", shape.Spec{Total: 10e6}, 4, 400 * time.Millisecond},
		{"each, four beside each other", shape.Spec{PerConnection: 10e6}, 4, 100 * time.Millisecond},
		{"each binds", shape.Spec{Total: 20e6, PerConnection: 5e6}, 3, 200 * time.Millisecond},
		{"total binds", shape.Spec{Total: 10e6, PerConnection: 5e6}, 4, 400 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var l shape.Link
				l.Set(c.spec)
				took := transfer(t, &l, c.conns, 1e6)
				if took < c.want-time.Millisecond || took > c.want+5*time.Millisecond {
					t.Errorf("took %s, want %s", took, c.want)
				}
				if l.Sent() != int64(c.conns)*1e6 {
					t.Errorf("counted %d bytes", l.Sent())
				}
			})
		})
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l shape.Link
		l.Set(shape.Spec{RTT: 20 * time.Millisecond})
		p := pipes{conns: make(chan net.Conn, 2)}
		near, far := net.Pipe()
		defer far.Close()
		p.conns <- near
		c, err := l.Listen(p).Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conn := c.(*shape.Conn)
		for i, want := range []time.Duration{40, 20, 20} {
			start := time.Now()
			l.RoundTrip(context.Background(), conn)
			if took := time.Since(start); took != want*time.Millisecond {
				t.Errorf("request %d waited %s, want %dms", i, took, want)
			}
		}
		if l.Used() != 1 {
			t.Errorf("%d connections used, want 1", l.Used())
		}
		l.Reset()
		if l.Used() != 0 {
			t.Errorf("%d connections used after a reset", l.Used())
		}
		l.RoundTrip(context.Background(), conn)
		if l.Used() != 1 {
			t.Errorf("%d connections used again, want 1", l.Used())
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		start := time.Now()
		if l.RoundTrip(ctx, conn); time.Since(start) != 0 {
			t.Error("a request that is over waits")
		}
	})
}
