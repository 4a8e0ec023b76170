package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cistern/bench/load"
	"cistern/bench/peer"
	"cistern/bench/proc"
)

// hits is a load of small hits whose latency is of interest.
type hits struct {
	clients int
	length  time.Duration
	// every is the pace of each client, one request in so much time; 0 = as fast as
	// answers come.
	every time.Duration
	// next is the n-th request of a client: its path and the length of its answer.
	next func(client, n int) (path string, length int64)
}

// latencies are the outcome: times in ms.
type latencies struct {
	windowResult
	times []float64
}

// pace is when a client asks.
type pace struct {
	due   time.Time
	every time.Duration // 0 = at once
}

// next returns how long to wait for the next request, or from when on it counts. A
// client that is late, because its last answer was, is counted from when it should
// have asked: a stall of a second costs all the requests within it, not one.
func (p *pace) next(now time.Time) (wait time.Duration, from time.Time) {
	if p.every == 0 {
		return 0, now
	}
	p.due = p.due.Add(p.every)
	if wait := p.due.Sub(now); wait > 0 {
		return wait, time.Time{}
	}
	return 0, p.due
}

// run puts the load on a target. Status and length of each answer are checked.
func (h hits) run(ctx context.Context, t *peer.Target) (latencies, error) {
	var done atomic.Int64
	times, paces := make([][]float64, h.clients), make([]pace, h.clients)
	begin := time.Now()
	for i := range paces {
		paces[i] = pace{due: begin.Add(h.every * time.Duration(i) / time.Duration(h.clients)), every: h.every}
	}
	w := window{clients: h.clients, length: h.length, progress: done.Load, loop: func(ctx context.Context, i int, c *load.Client) error {
		wait, start := paces[i].next(time.Now())
		if wait > 0 {
			if sleep(ctx, wait) != nil {
				return nil // the window is over
			}
			start = time.Now()
		}
		path, length := h.next(i, len(times[i]))
		resp, err := c.Do(ctx, load.Request{Path: path, Accept: accept})
		if err != nil {
			return err
		}
		if resp.Status != 200 || resp.Length != length {
			return fmt.Errorf("%s: status %d and %d bytes, want 200 and %d", path, resp.Status, resp.Length, length)
		}
		if err := c.Skip(ctx, resp); err != nil {
			return err
		}
		times[i] = append(times[i], ms(time.Since(start)))
		done.Add(1)
		return nil
	}}
	r, err := w.run(ctx, t)
	out := latencies{windowResult: r}
	for _, ts := range times {
		out.times = append(out.times, ts...)
	}
	return out, err
}

// window is a load of so many clients for so long.
type window struct {
	clients       int
	receiveBuffer int // of the clients' sockets; 0 = the kernel's choice
	length        time.Duration
	loop          func(ctx context.Context, client int, c *load.Client) error // one request
	progress      func() int64
}

type windowResult struct {
	done int64
	took time.Duration
	cpu  time.Duration
}

// run starts the clients, lets them get going, and measures until the window ends.
func (w window) run(ctx context.Context, t *peer.Target) (windowResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	over := errors.New("window over")
	for i := range w.clients {
		c, err := load.New(load.Options{Base: t.Base, ReceiveBuffer: w.receiveBuffer})
		if err != nil {
			return windowResult{}, err
		}
		wg.Go(func() {
			defer c.Close()
			for ctx.Err() == nil {
				if err := w.loop(ctx, i, c); err != nil {
					cancel(err) // the first cause stays
					return
				}
			}
		})
	}
	r, err := w.measure(ctx, t)
	cancel(over)
	wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, over) {
		return r, cause
	}
	return r, err
}

func (w window) measure(ctx context.Context, t *peer.Target) (windowResult, error) {
	if err := sleep(ctx, ramp); err != nil {
		return windowResult{}, nil // the clients' error is the one to tell
	}
	var r windowResult
	cpu, err := proc.CPU(t.Pids)
	if err != nil {
		return r, err
	}
	start, before := time.Now(), w.progress()
	if err := sleep(ctx, w.length); err != nil {
		return r, nil
	}
	r.done, r.took = w.progress()-before, time.Since(start)
	after, err := proc.CPU(t.Pids)
	r.cpu = after - cpu
	return r, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
