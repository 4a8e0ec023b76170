package cache

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"cistern/internal/oci"
)

// stallAfter is how long the disk may take for one operation of a fill before
// its readers go on without it.
const stallAfter = 5 * time.Second

// errStalled is for an operation that the disk came back from too late: whoever
// waited for it has gone on without.
var errStalled = fmt.Errorf("the disk did not answer within %s: %w", stallAfter, oci.ErrUnavailable)

// onDisk runs an operation on the disk. If the disk does not come back in time,
// leave is called, once, while the operation still runs, new fills go past the
// disk until it has come back, and the error is errStalled, whatever became of
// the operation.
func (c *Cache) onDisk(leave func(), op func() error) error {
	stop := bound(stallAfter, func() {
		c.stalled()
		leave()
	})
	defer stop() // if op panics
	err := op()
	if stop() {
		return err
	}
	c.stalls.Add(-1)
	return errStalled
}

// guarded reads from the disk as onDisk has it; leave learns how far it came.
type guarded struct {
	c     *Cache
	r     io.Reader
	n     int64
	leave func(n int64)
}

// Read implements io.Reader. What comes too late is not given.
func (g *guarded) Read(p []byte) (n int, err error) {
	at := g.n
	err = g.c.onDisk(func() { g.leave(at) }, func() (err error) {
		n, err = g.r.Read(p)
		return err
	})
	if errors.Is(err, errStalled) {
		return 0, err
	}
	g.n += int64(n)
	return n, err
}

// leaveLeft lets those go on who wait for a leftover of which the disk does not
// give more than n bytes, whose hash is h: those who have had some of it as from
// any fill, the others, and whoever comes, by another fill, past the disk.
func (c *Cache) leaveLeft(f *fill, h hash.Hash, n int64) {
	c.flights.Forget(f.digest)
	if f.here {
		c.unback(f, nil, h, n)
		return
	}
	f.Fail(errStalled)
}

// stalled notes an operation that does not come back.
func (c *Cache) stalled() {
	c.stalls.Add(1)
	c.stats.stalled.Add(1)
	c.diskFailed("waiting for the disk", errStalled)
}

// unhurried runs op and waits for it, but not for a disk that does not come
// back: then it goes on alone.
func (c *Cache) unhurried(op func()) {
	if !c.begin() {
		return
	}
	done := make(chan struct{})
	over := sync.OnceFunc(func() { close(done) })
	go func() {
		defer c.work.Done()
		defer over()
		defer func() {
			if p := recover(); p != nil {
				c.panicked("keeping an object", p)
			}
		}()
		_ = c.onDisk(over, func() error { op(); return nil }) // a stall is counted and said
	}()
	<-done
}
