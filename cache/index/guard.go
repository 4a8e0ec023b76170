package index

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"syscall"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// callerPanic carries a panic of a caller's function through the guard: it is
// the caller's fault, not the file's.
type callerPanic struct{ value any }

// guard runs one call within the fence, through the hook if there is one.
func (x *Index) guard(op string, f func() error) error {
	if x.o.Hook == nil {
		return x.fence(op, f)
	}
	return x.fence(op, func() error { return x.o.Hook(op, f) })
}

// fence runs f. A panic, or a fault on the mapped file, breaks the index.
func (x *Index) fence(op string, f func() error) (err error) {
	if b := x.broken.Load(); b != nil {
		return *b
	}
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		p := recover()
		if c, ok := p.(callerPanic); ok {
			panic(c.value)
		}
		if p != nil {
			err = x.breakFor(op, fmt.Errorf("panic: %v", p))
		}
	}()
	return f()
}

// breakFor makes the index broken; the first reason stays.
func (x *Index) breakFor(op string, cause error) error {
	err := fmt.Errorf("%w: %s: %w", ErrBroken, op, cause)
	x.broken.CompareAndSwap(nil, &err)
	return *x.broken.Load()
}

// begin starts a transaction. It lets one goroutine at a time into bbolt's
// Begin: a panic in there leaves bbolt's own lock held, and who comes next must
// learn that the index is broken before it waits for that lock.
func (x *Index) begin(writable bool) (tx *bolt.Tx, err error) {
	x.beginMu.Lock()
	defer x.beginMu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = x.breakFor("begin", fmt.Errorf("panic: %v", p))
		}
	}()
	if b := x.broken.Load(); b != nil {
		return nil, *b
	}
	if x.closed {
		return nil, ErrClosed
	}
	if writable && x.o.ReadOnly {
		return nil, &fs.PathError{Op: "write", Path: x.path, Err: syscall.EROFS}
	}
	tx, err = x.db.Begin(writable)
	if errors.Is(err, bolterrors.ErrInvalidMapping) { // a larger mapping failed, and the old one is gone
		return nil, x.breakFor("begin", err)
	}
	return tx, err
}

// view runs f in a read transaction. Nothing that f gets from bbolt may leave
// it: the pages are reused afterwards.
func (x *Index) view(op string, f func(tx *bolt.Tx) error) error {
	return x.guard(op, func() error {
		tx, err := x.begin(false)
		if err != nil {
			return err
		}
		defer x.rollback(tx)
		return f(tx)
	})
}

// rollback ends a transaction without a trace, unless the index is broken:
// then bbolt is not entered again, and its mapping stays for those inside.
func (x *Index) rollback(tx *bolt.Tx) {
	if x.broken.Load() == nil {
		_ = tx.Rollback() // fails only if it is over already
	}
}

// errUnchanged is what a transaction's function says to save the commit.
var errUnchanged = errors.New("nothing changed")

// update runs f in a write transaction and commits it, durably; then it calls
// done, unless that is nil.
func (x *Index) update(op string, f func(tx *bolt.Tx) error, done func()) error {
	return x.guard(op, func() error {
		tx, err := x.begin(true)
		if err != nil {
			return err
		}
		defer x.rollback(tx)
		if err := f(tx); errors.Is(err, errUnchanged) {
			return nil
		} else if err != nil {
			return fmt.Errorf("index: %s: %w", op, err)
		}
		before := x.length()
		err = tx.Commit()
		x.grew()
		if err != nil {
			return x.commitFailed(op, err, x.length() != before)
		}
		x.commits.Add(1)
		if done != nil {
			done()
		}
		return nil
	})
}

// commitFailed tells a disk that takes nothing now, being full or read-only,
// from a broken file. A write that it refused was one of data pages, which
// nothing refers to, or of a meta page in place, which is as it was: the
// transaction never was, and the next one writes all of its pages. So it is if
// the file could not be made larger, which comes before the first write; bbolt
// gives the reason as text, without its errno.
//
// Anything else leaves the file in a state that nobody knows, a failed fsync
// above all, and with EROFS too: if it was the meta page's, readers here see
// the new one while the disk may have kept the old, and of that one the next
// transaction would overwrite pages.
func (x *Index) commitFailed(op string, err error, grown bool) error {
	var pe *fs.PathError
	var errno syscall.Errno
	refused := errors.As(err, &pe) && pe.Op == "write" &&
		(errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS))
	if refused || !errors.As(err, &errno) && !grown {
		return fmt.Errorf("index: %s: %w", op, err)
	}
	return x.breakFor(op, err)
}

// length is the size of the file; bbolt makes it larger before it writes.
func (x *Index) length() int64 {
	fi, err := x.file.Stat()
	if err != nil {
		return -1
	}
	return fi.Size()
}
