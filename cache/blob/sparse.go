package blob

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"

	"cistern/internal/oci"
)

// Track has the fill know its pieces from now on; size is the blob's. What was
// written before was written in order. It waits for who writes at the moment, and
// reads nothing.
func (in *Ingest) Track(size int64) {
	in.writing.Lock()
	defer in.writing.Unlock()
	if in.pieces != nil {
		return
	}
	ps := newPieces(size)
	for i := range ps.all {
		off, end := ps.span(i)
		got := min(end, in.Len()) - off
		if got <= 0 {
			break
		}
		ps.all[i] = piece{uint32(got), begun}
		if got < end-off {
			ps.forming[i] = &forming{got: got, unsum: true}
		}
	}
	in.pieces = ps
}

// Sparse has the piece state be kept in a file beside the fill, before the first
// byte is written out of order. Track comes before it.
//
//	open(pieces, O_RDWR|O_CREAT|O_TRUNC) pwrite
func (in *Ingest) Sparse(ctx context.Context) error {
	if in.sparse() {
		return nil
	}
	n := sideSize(in.pieces.size)
	if err := in.room.Grow(ctx, n); err != nil {
		return err
	}
	in.room.wrote(n)
	if err := in.pieces.openSide(in.store, in.d); err != nil {
		in.store.counters.writeFailures.Add(1)
		return diskError("note pieces of fill "+in.d.String(), err)
	}
	return nil
}

// Tracked tells whether the fill knows its pieces.
func (in *Ingest) Tracked() bool { return in.pieces != nil }

// Extend promises room for n more bytes, which will be written at off.
func (in *Ingest) Extend(ctx context.Context, off, n int64) error {
	if err := in.room.Grow(ctx, n); err != nil {
		return err
	}
	return diskError("allocate fill "+in.d.String(), in.allocate(off, n))
}

func (in *Ingest) sparse() bool {
	if in.pieces == nil {
		return false
	}
	in.pieces.mu.Lock()
	defer in.pieces.mu.Unlock()
	return in.pieces.side != nil
}

// SyncPieces puts the pieces that are whole on stable storage, and notes it there,
// so that the fill can go on with them after a power cut. It may run while others
// write, and one at a time. After ErrNoSpace all is as it was; after any other
// error, an ErrDisk, the content is unknown: Abort.
//
//	[open(pieces) pwrite] fsync(fill) pwrite(pieces)... fsync(pieces)
//	open(folder) fsync close, the first time
func (in *Ingest) SyncPieces(ctx context.Context) error {
	is, err := in.pieces.syncable(in.file)
	if err != nil || len(is) == 0 {
		return diskError("read fill "+in.d.String(), err)
	}
	if err := in.Sparse(ctx); err != nil {
		return err
	}
	s := in.store
	err = in.file.Sync()
	s.counters.filesSynced.Add(1)
	if err == nil {
		err = in.pieces.markSynced(is)
		s.counters.filesSynced.Add(1)
	}
	if err == nil && !in.named {
		dir := path.Dir(place(fillsDir, in.d))
		err = errors.Join(s.syncFolder(dir), s.syncParents())
		in.named = err == nil
	}
	if err != nil {
		s.counters.syncFailures.Add(1)
	}
	return diskError("sync fill "+in.d.String(), err)
}

// Ranges gives what can be gone on with: whole pieces, or the beginning of a fill
// that was written in order.
func (in *Ingest) Ranges() []Range {
	switch {
	case in.pieces != nil:
		return in.pieces.ranges()
	case in.Len() > 0:
		return []Range{{0, in.Len()}}
	}
	return nil
}

// Size is that of the blob, as far as it is known from Track or from the piece
// state that was left; else -1.
func (in *Ingest) Size() int64 {
	if in.pieces == nil {
		return -1
	}
	return in.pieces.size
}

// takeUp takes the piece state of a fill that was left up and, if check says so,
// checks its pieces in the file. One that is not what its sum says, or lies behind
// the file's end, counts as missing from now on.
func (in *Ingest) takeUp(ps *pieces, check bool) error {
	f, err := in.store.fs.OpenFile(sidePlace(in.d), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.side, in.pieces = f, ps
	for i, p := range ps.all {
		if p.state == missing {
			continue
		}
		if ps.stands(i, in, check) {
			continue
		}
		ps.all[i] = piece{}
		if err := ps.write(i); err != nil {
			return err
		}
	}
	return nil
}

// stands tells whether a piece is in the file as its state says; mu is held.
func (ps *pieces) stands(i int, in *Ingest, check bool) bool {
	off, end := ps.span(i)
	switch p := ps.all[i]; {
	case p.state == begun:
		if check || off+int64(p.sum) > min(end, in.Len()) {
			return false // no sum covers it
		}
		if off+int64(p.sum) < end {
			ps.forming[i] = &forming{got: int64(p.sum), unsum: true}
		}
		return true
	case end > in.Len():
		return false
	case !check:
		return true
	default:
		sum, err := ps.read(i, in.file)
		return err == nil && sum == p.sum
	}
}

// dropSide removes the piece state of a fill that needs it no more.
func (in *Ingest) dropSide() error {
	if in.ended || !in.sparse() {
		return nil
	}
	return errors.Join(in.pieces.close(), ignoreAbsent(in.store.fs.Remove(sidePlace(in.d))))
}

// removeSide removes the piece state of what lies in fills/ for d, before that goes
// itself: state without its file would be taken for that of a later one.
func (s *Store) removeSide(d oci.Digest) error {
	if !s.keptFile(d).pieces {
		return nil
	}
	return ignoreAbsent(s.fs.Remove(sidePlace(d)))
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Store) keptFile(d oci.Digest) keptFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[d]
}

// KeepSynced forgets of the kept fill of d what is not on stable storage: all that
// can be believed after a power cut, or of a copy. False if that leaves nothing,
// or if the fill has no piece state.
func (s *Store) KeepSynced(d oci.Digest) (bool, error) {
	if !s.keptFile(d).pieces {
		return false, nil
	}
	left, err := s.forgetUnsynced(d)
	return left, diskError("settle fill "+d.String(), err)
}

func (s *Store) forgetUnsynced(d oci.Digest) (left bool, err error) {
	ps, err := s.loadPieces(d)
	if ps == nil || err != nil {
		return false, err
	}
	f, err := s.fs.OpenFile(sidePlace(d), os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.side = f
	for i, p := range ps.all {
		switch p.state {
		case synced:
			left = true
		case landed, begun:
			ps.all[i] = piece{}
			err = errors.Join(err, ps.write(i))
		}
	}
	return left, errors.Join(err, f.Close())
}
