package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"cistern/internal/oci"
)

// share runs one call for all who ask under the same key at the same time. The
// call belongs to nobody: it goes on when whoever asked first has left, and a
// caller stops waiting when its own context ends. It is bounded in time and
// ends with the cache.
func share[T any](ctx context.Context, c *Cache, key string, call func(context.Context) (T, error)) (T, error) {
	var zero T
	ch := c.shared.DoChan(key, func() (v any, err error) {
		if !c.begin() {
			return zero, errClosed
		}
		defer c.work.Done()
		defer func() {
			if p := recover(); p != nil {
				c.panicked("a shared request", p)
				err = fmt.Errorf("a shared request panicked: %v", p)
			}
		}()
		for {
			v, again, err := bounded(c.ctx, call)
			if !again {
				return v, err
			}
		}
	})
	select {
	case r := <-ch:
		if r.Err != nil {
			return zero, r.Err
		}
		return r.Val.(T), nil
	case <-ctx.Done():
		return zero, context.Cause(ctx)
	}
}

// bounded runs one call within its bound in time. It is to be run again if the
// bound passed while the process stood still.
func bounded[T any](ctx context.Context, call func(context.Context) (T, error)) (v T, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchBound)
	defer cancel()
	v, err = call(ctx)
	deadline, _ := ctx.Deadline()
	return v, err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && stoodStill(deadline), err
}

// errClosed answers whoever comes while the cache closes.
var errClosed = fmt.Errorf("the cache is closing: %w", oci.ErrUnavailable)

// panicked notes a panic that ends one piece of work and nothing else.
func (c *Cache) panicked(what string, p any) {
	c.stats.panics.Add(1)
	c.log.Error(what+" panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
}

// begin registers a piece of work, unless the cache is closing; whoever began
// calls c.work.Done.
func (c *Cache) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.work.Add(1)
	return true
}

// remember keeps a refusal, so that repeated questions cost upstream nothing:
// "not found" and "denied" only, since anything else may be over by now.
func (c *Cache) remember(repo oci.Repository, ref asked, err error) {
	if errors.Is(err, oci.ErrNotFound) || errors.Is(err, oci.ErrDenied) {
		c.negative.Add(question{repo, ref}, refused{err, time.Now().Add(negativeFor)})
	}
}

// question is what upstream gave an answer to.
type question struct {
	repo oci.Repository
	asked
}

// asked is a blob or a manifest. Which of the two decides: clients ask for a
// digest as a manifest first, and after a "not found" as a blob (P 2.2).
type asked struct {
	blob bool
	ref  string // digest or tag
}

func askedBlob(d oci.Digest) asked   { return asked{true, d.String()} }
func askedManifest(ref string) asked { return asked{false, ref} }
