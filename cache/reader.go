package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync"
	"sync/atomic"
	"syscall"

	"cistern/cache/blob"
	"cistern/cache/flight"
	"cistern/cache/index"
)

// Reader reads a blob that is whole or on its way. It implements
// io.ReadSeeker, for http.ServeContent, and sends files without copying by
// SendTo. It stops waiting when the context of its request ends.
//
// It has one user, but http.ServeContent reads several ranges in a goroutine of
// its own, which it does not wait for when the client has left: Close may
// therefore come while Read runs, and makes it return.
type Reader struct {
	c      *Cache
	ctx    context.Context
	cancel context.CancelFunc // of ctx; nil: nothing here waits
	broken atomic.Pointer[error]

	mu     sync.Mutex // guards all below; held while reading
	closed bool
	size   int64 // -1: not known
	off    int64
	from   int64 // where reading began, for the count of unverified bytes

	file    *blob.File // own description: sendfile moves its offset
	gone    bool       // there was none to open
	spliced bool       // pages of file may lie in a socket

	repo  *Repository  // on whose word it reads, and goes on if its file breaks
	rec   index.Record // of a hit
	old   *blob.File   // the first one that broke, whose beginning was sent
	mends int

	fill     *fill             // nil: the file is whole
	follower *flight.Reader    // of fill
	detour   *detour           // when the disk could not take it
	pass     *passing          // nil: it goes by the cache
	ranges   *upstreamCounters // where it counts; nil: it reads of what somebody wants all of
}

// reader follows a fill.
func (c *Cache) reader(ctx context.Context, f *fill, follower *flight.Reader, repo *Repository, size int64) *Reader {
	r := &Reader{c: c, size: size, fill: f, follower: follower, repo: repo}
	r.ctx, r.cancel = context.WithCancel(ctx)
	if f.data == nil {
		r.openFile()
	}
	c.stats.readers.Add(1)
	return r
}

// may is what a stream of the reader's own may read.
func (r *Reader) may() *allowance { return r.c.allowance(r.repo, always) }

// always says that somebody waits.
func always() bool { return true }

// openFile opens the reader's own description of a growing file. Where that
// fails the reader goes round the disk.
func (r *Reader) openFile() {
	if r.c.store == nil {
		return
	}
	f, err := r.c.store.OpenFile(r.fill.digest)
	r.gone = errors.Is(err, fs.ErrNotExist)
	if err != nil {
		return
	}
	// While the fill runs its file is there. Afterwards what lies there may be a
	// later fill's, which nobody has verified, unless it is a blob.
	if f.Fill && (!r.fill.alone || r.fill.released.Load()) {
		if _, whole := r.c.findStored(r.fill.digest); !whole {
			f.Close()
			return
		}
	}
	r.file = f
}

// unbacked tells whether the reader has no file or memory to read from.
func (r *Reader) unbacked() bool { return r.file == nil && r.fill != nil && r.fill.data == nil }

// Seek implements io.Seeker. The end of a blob of unknown size cannot be
// sought.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		if r.size < 0 {
			return 0, errors.New("seek from the end: the size is not known")
		}
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("seek: before the start")
	}
	if offset != r.off && r.detour != nil {
		r.detour.close()
		r.detour = nil
	}
	r.off, r.from = offset, offset
	if r.follower != nil {
		r.follower.Begin(offset)
	}
	return offset, nil
}

// Err is what broke the reading off, if anything did; that a client took no
// more is none of it. It never waits.
func (r *Reader) Err() error {
	if err := r.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Read implements io.Reader; it blocks until bytes are there.
func (r *Reader) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read(p)
}

// read is Read; mu is held.
func (r *Reader) read(p []byte) (n int, err error) {
	end, err := r.ready()
	if err != nil {
		return 0, err
	}
	if r.detour != nil {
		n, err = r.detour.Read(p)
		return r.moved(n, err)
	}
	p = p[:min(int64(len(p)), end-r.off)]
	if r.fill != nil && r.fill.data != nil {
		return r.moved(copy(p, r.fill.data[r.off:end]), nil)
	}
	n, err = r.file.ReadAt(p, r.off)
	if errors.Is(err, io.EOF) {
		err = nil
		if n == 0 {
			err = errShort
		}
	}
	if n == 0 && err != nil {
		if err := r.mend(err); err != nil {
			return 0, r.fail(err)
		}
		return r.read(p)
	}
	n, _ = r.moved(n, nil) // an error comes again with the next read
	return n, nil
}

// errShort is for a file that ends before the blob does.
var errShort = fmt.Errorf("the cached file ends early: %w", io.ErrUnexpectedEOF)

// turn is how much a reader of a growing file sends before it gives way: of a
// hundred that read along, each holds a processor for as long as the kernel
// takes to copy this, while others wait for their first byte.
const turn = 512 << 10

// SendTo writes the next n bytes, by sendfile where w allows it: w's ReadFrom
// gets an io.LimitedReader of an *os.File. What w refuses is not kept in Err.
func (r *Reader) SendTo(w io.Writer, n int64) (sent int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for sent < n {
		end, err := r.ready()
		if err != nil {
			return sent, err
		}
		if r.detour != nil || r.file == nil {
			m, err := io.CopyN(w, readerFunc(r.read), n-sent)
			return sent + m, err
		}
		most := end - r.off
		if r.fill != nil && r.fill.Readers() > 1 {
			most = min(most, turn)
		}
		m, err := r.sendFile(w, min(most, n-sent))
		sent += m
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// sendFile sends from the file. A file that ends or breaks before the blob does
// is no error where there is another way.
func (r *Reader) sendFile(w io.Writer, n int64) (int64, error) {
	if _, err := r.file.Seek(r.off, io.SeekStart); err != nil {
		return 0, r.fail(err)
	}
	m, err := io.CopyN(w, r.file.File, n)
	r.spliced = r.spliced || m > 0
	_, _ = r.moved(int(m), nil)
	switch {
	case errors.Is(err, io.EOF):
		err = errShort
	case !errors.Is(err, syscall.EIO): // of the file: no socket says that
		return m, err
	}
	if err = r.mend(err); err != nil {
		return m, r.fail(err)
	}
	return m, nil
}

// readerFunc is an io.Reader and nothing else.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// ready waits until there is something to read at the reader's offset and
// tells how far it goes.
func (r *Reader) ready() (end int64, err error) {
	switch {
	case r.closed:
		return 0, fs.ErrClosed
	case r.Err() != nil:
		return 0, r.Err()
	case r.detour != nil:
		return r.size, nil
	case r.pass != nil && r.off < r.size:
		r.detour = r.pass.around(r)
		return r.size, nil
	case r.fill == nil && r.off >= r.size:
		return 0, io.EOF
	case r.fill == nil:
		return r.size, nil
	}
	end, err = r.follower.Wait(r.ctx, r.off)
	switch {
	case err == nil && r.gone:
		// The file went before it could be opened: so will the flight, and why
		// decides how to go on. Wrong bytes are not to be fetched once more.
		if _, err = r.follower.Wait(r.ctx, math.MaxInt64); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errUnbacked) {
			return 0, r.fail(err)
		}
		r.gone = false
		return r.goRound()
	case errors.Is(err, errUnbacked) || err == nil && r.unbacked():
		return r.goRound()
	case errors.Is(err, io.EOF):
		return 0, err
	case err != nil:
		return 0, r.fail(err)
	}
	return end, nil
}

func (r *Reader) goRound() (end int64, err error) {
	r.detour = r.around()
	return r.size, nil
}

// part tells whether only a part of the blob was asked for.
func (r *Reader) part() bool { return r.follower != nil && len(r.follower.Asks()) > 0 }

// moved accounts for n bytes read and keeps a failure.
func (r *Reader) moved(n int, err error) (int, error) {
	if n > 0 && (r.from > 0 || r.part()) && r.fill != nil && !r.fill.Verified() {
		r.c.stats.unverified.Add(uint64(n))
	}
	r.ranges.took(n)
	r.off += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, r.fail(err)
	}
	return n, err
}

func (r *Reader) fail(err error) error {
	r.broken.Store(&err)
	return err
}

// Close ends the reading, and waits for a Read that runs. The fill, if there is
// one, goes on. Further calls do nothing.
func (r *Reader) Close() error {
	if r.cancel != nil {
		r.cancel()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	if r.detour != nil {
		r.detour.close()
	}
	r.pass.close()
	if r.follower != nil {
		r.follower.Close()
		r.c.stats.readers.Add(-1)
	}
	if r.old != nil {
		r.old.Close()
	}
	if r.file != nil {
		return r.file.Close()
	}
	return nil
}
