package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"cistern/cache/blob"
	"cistern/cache/flight"
	"cistern/internal/oci"
)

// Reader reads a blob that is whole or on its way. It implements
// io.ReadSeeker, for http.ServeContent, and sends files without copying by
// SendTo. It is for one goroutine at a time, and stops waiting when the context
// of its request ends.
type Reader struct {
	c    *Cache
	ctx  context.Context
	size int64 // -1: not known
	off  int64
	from int64 // where reading began, for the count of unverified bytes
	err  error // sticky, but for io.EOF

	file *blob.File // own description: sendfile moves its offset

	fill     *fill          // nil: the file is whole
	follower *flight.Reader // of fill
	src      Source
	detour   *detour // when the disk could not take it
}

// openFile opens the reader's own description of a growing file. Where that
// fails the reader goes round the disk.
func (r *Reader) openFile() {
	if r.c.store == nil {
		return
	}
	if f, err := r.c.store.OpenFile(r.fill.digest); err == nil {
		r.file = f
	}
}

// unbacked tells whether the reader has no file or memory to read from.
func (r *Reader) unbacked() bool { return r.file == nil && r.fill != nil && r.fill.data == nil }

// Seek implements io.Seeker. The end of a blob of unknown size cannot be
// sought.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
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
	return offset, nil
}

// Err is what broke the reading off, if anything did.
func (r *Reader) Err() error { return r.err }

// Read implements io.Reader; it blocks until bytes are there.
func (r *Reader) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
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
	return r.moved(n, err)
}

// errShort is for a file that ends before the blob does.
var errShort = fmt.Errorf("the cached file ends early: %w", io.ErrUnexpectedEOF)

// SendTo writes the next n bytes, by sendfile where w allows it: w's ReadFrom
// gets an io.LimitedReader of an *os.File.
func (r *Reader) SendTo(w io.Writer, n int64) (sent int64, err error) {
	for sent < n {
		end, err := r.ready()
		if err != nil {
			return sent, err
		}
		if r.detour != nil || r.file == nil {
			m, err := io.CopyN(w, struct{ io.Reader }{r}, n-sent)
			return sent + m, err
		}
		if _, err := r.file.Seek(r.off, io.SeekStart); err != nil {
			return sent, r.fail(err)
		}
		m, err := io.CopyN(w, r.file.File, min(end-r.off, n-sent))
		sent += m
		if errors.Is(err, io.EOF) {
			err = errShort
		}
		if _, err := r.moved(int(m), err); err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// ready waits until there is something to read at the reader's offset and
// tells how far it goes.
func (r *Reader) ready() (end int64, err error) {
	switch {
	case r.err != nil:
		return 0, r.err
	case r.detour != nil:
		return r.size, nil
	case r.fill == nil && r.off >= r.size:
		return 0, io.EOF
	case r.fill == nil:
		return r.size, nil
	}
	end, err = r.follower.Wait(r.ctx, r.off)
	switch {
	case errors.Is(err, errUnbacked) || err == nil && r.unbacked():
		r.detour = r.around()
		return r.size, nil
	case errors.Is(err, io.EOF):
		return 0, err
	case err != nil:
		return 0, r.fail(err)
	}
	return end, nil
}

// moved accounts for n bytes read and keeps a failure.
func (r *Reader) moved(n int, err error) (int, error) {
	if n > 0 && r.from > 0 && r.fill != nil && !r.fill.Verified() {
		r.c.stats.unverified.Add(uint64(n))
	}
	r.off += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, r.fail(err)
	}
	return n, err
}

func (r *Reader) fail(err error) error {
	r.err = err
	return err
}

// Close ends the reading. The fill, if there is one, goes on.
func (r *Reader) Close() error {
	if r.detour != nil {
		r.detour.close()
	}
	if r.follower != nil {
		r.follower.Close()
		r.c.stats.readers.Add(-1)
	}
	if r.file != nil {
		return r.file.Close()
	}
	return nil
}

// detour is a way round the disk: a stream of the reader's own, with the hash
// as far as it is known. It holds the last bytes back until they are known to
// be right.
type detour struct {
	s    *stream
	hash hash.Hash // nil: a range, which no digest covers
	d    oci.Digest
	next []byte // read from upstream, not given out yet
	buf  [2][]byte
	err  error // what came behind next
}

// around starts a detour at the reader's offset.
func (r *Reader) around() *detour {
	f := r.fill
	dt := &detour{d: f.digest}
	if s := f.spare.Swap(nil); s != nil && s.off == r.off {
		dt.s = s
	} else {
		if s != nil {
			s.end()
		}
		dt.s = newStream(r.ctx, r.src, f.digest, r.off, r.size)
	}
	switch {
	case r.off == 0:
		dt.hash = f.digest.Hash()
	case r.off == f.at && r.from == 0 && f.hash != nil:
		if h, ok := f.hash.(hash.Cloner); ok {
			if clone, err := h.Clone(); err == nil {
				dt.hash = clone
			}
		}
	}
	return dt
}

// Read gives out what was read before the last read, so that the end of the
// blob is known before its last bytes go.
func (dt *detour) Read(p []byte) (int, error) {
	for len(dt.next) == 0 {
		if dt.err != nil {
			return 0, dt.err
		}
		dt.fetch()
	}
	if dt.err == nil && len(p) >= len(dt.next) {
		give := dt.next
		n := copy(p, give)
		dt.next = nil
		dt.fetch()
		if dt.err != nil && !errors.Is(dt.err, io.EOF) {
			return 0, dt.err
		}
		return n, nil
	}
	n := copy(p, dt.next)
	if dt.err == nil || errors.Is(dt.err, io.EOF) {
		dt.next = dt.next[n:]
		return n, nil
	}
	return 0, dt.err
}

// fetch reads the next piece and, at the end, verifies.
func (dt *detour) fetch() {
	dt.buf[0], dt.buf[1] = dt.buf[1], dt.buf[0]
	if dt.buf[0] == nil {
		dt.buf[0] = make([]byte, 32<<10)
	}
	n, err := dt.s.Read(dt.buf[0])
	if dt.hash != nil {
		dt.hash.Write(dt.buf[0][:n])
	}
	if errors.Is(err, io.EOF) && dt.hash != nil && !dt.d.Matches(dt.hash) {
		dt.s.blame()
		err = errMismatch
	}
	dt.next, dt.err = dt.buf[0][:n], err
}

func (dt *detour) close() { dt.s.end() }
