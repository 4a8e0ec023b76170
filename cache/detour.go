package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"cistern/internal/oci"
)

// detour is a way round the disk: a stream of the reader's own, with the hash
// as far as it is known. It holds the last bytes back until they are known to
// be right.
type detour struct {
	s    *stream
	of   *upstreamCounters // where it counts what it fetches; nil: nowhere
	hash hash.Hash         // nil: a range, which no digest covers
	d    oci.Digest
	next []byte // read from upstream, not given out yet
	buf  [2][]byte
	err  error // what came behind next
}

// around starts a detour at the reader's offset.
func (r *Reader) around() *detour {
	f := r.fill
	dt := &detour{d: f.digest, of: r.ranges}
	off := r.off
	switch {
	case r.from > 0 || r.part(): // a range, which no digest covers
	case r.off == 0:
		dt.hash = f.digest.Hash()
	case r.old != nil:
		dt.hash = r.prefixHash()
	case f.hash != nil && r.off <= f.at && f.at <= r.off+1:
		dt.hash = cloneHash(f.hash)
		dt.next, dt.err = r.held(f.at - r.off)
		off = f.at
	case f.hash != nil && f.at < r.off:
		dt.hash = r.hashOn(f.hash, f.at)
	}
	if dt.hash == nil && r.from == 0 && !r.part() && dt.err == nil {
		dt.err = errUnprovable
	}
	upto := within(r.follower.Asks(), off)
	if s := f.spare.Swap(nil); s != nil && s.off == off && s.reaches(upto) {
		context.AfterFunc(r.ctx, s.cancel) // it was the fill's, and is this reader's now
		dt.s = s
	} else {
		if s != nil {
			s.end()
		}
		dt.s = newStream(r.ctx, r.repo.Source, r.may(), f.digest, off, upto, r.size)
	}
	return dt
}

// hashOn goes on with a hash, of the bytes up to at, to where the reader stands;
// nil if they cannot be read.
func (r *Reader) hashOn(h hash.Hash, at int64) hash.Hash {
	h = cloneHash(h)
	if h == nil || r.file == nil {
		return nil
	}
	if n, err := io.Copy(h, io.NewSectionReader(r.file, at, r.off-at)); err != nil || n != r.off-at {
		return nil
	}
	return h
}

// errUnprovable is for a detour that could not tell wrong bytes from right ones.
var errUnprovable = fmt.Errorf("the bytes cannot be verified from here on: %w", oci.ErrUnavailable)

// held reads the byte that the flight holds back while the size is not known:
// it is on disk and hashed, and was not given out.
func (r *Reader) held(n int64) ([]byte, error) {
	p := make([]byte, n)
	if n == 0 {
		return nil, nil
	}
	if r.file == nil {
		return nil, errUnprovable
	}
	_, err := r.file.ReadAt(p, r.off)
	return p, err
}

func cloneHash(h hash.Hash) hash.Hash {
	if h, ok := h.(hash.Cloner); ok {
		if clone, err := h.Clone(); err == nil {
			return clone
		}
	}
	return nil
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
	dt.of.fetched(n)
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
