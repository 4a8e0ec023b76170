package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

var errClosed = errors.New("the upstream is being closed")

// flights runs work that several callers share. The work has its own context,
// so that a waiter who leaves does not end it for the others; close ends what
// runs and waits for it.
type flights struct {
	group singleflight.Group
	ctx   context.Context
	stop  context.CancelCauseFunc

	mu     sync.Mutex // guards closed and the step from "not closed" to wg.Add
	closed bool
	wg     sync.WaitGroup
}

func newFlights() *flights {
	f := &flights{}
	f.ctx, f.stop = context.WithCancelCause(context.Background())
	return f
}

// do runs fn once for all who ask for key meanwhile, for at most limit, and
// waits for it as long as ctx lives.
func (f *flights) do(ctx context.Context, key string, limit time.Duration, fn func(context.Context) (any, error)) (any, error) {
	select {
	case r := <-f.start(key, limit, fn):
		return r.Val, r.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// start is do without the wait.
func (f *flights) start(key string, limit time.Duration, fn func(context.Context) (any, error)) <-chan singleflight.Result {
	return f.group.DoChan(key, func() (v any, err error) {
		if !f.enter() {
			return nil, errClosed
		}
		defer f.wg.Done()
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		ctx, cancel := context.WithTimeout(f.ctx, limit)
		defer cancel()
		return fn(ctx)
	})
}

func (f *flights) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.wg.Add(1)
	return true
}

func (f *flights) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.stop(errClosed)
	f.wg.Wait()
}
