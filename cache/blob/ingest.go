package blob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// growStep is by how much an Ingest of unknown length extends its reservation.
const growStep = 8 * mib

// Ingest is a fill that is being written. Without Sparse it is written in order,
// and the length of its file is how much of the blob is there; with it anywhere,
// by several goroutines, each byte once, and what is there is known by the piece.
// One goroutine ends it, when no other writes any more; ReadAt and Len may be
// called by others meanwhile, and readers open the same file by Store.OpenFile.
// Exactly one of Commit, Keep and Abort ends it; later calls of these do nothing,
// so a deferred Abort is safe.
type Ingest struct {
	store   *Store
	d       oci.Digest
	file    durable.File
	room    *Reservation
	len     atomic.Int64 // of the file
	bytes   atomic.Int64 // written
	front   atomic.Int64 // how much of the beginning is there
	pieces  *pieces      // nil until Track
	writing sync.RWMutex // held by who writes, and by Track against them
	named   bool         // the names of its files are on stable storage
	ahead   int64        // allocated up to here, where space is late
	ended   bool
}

// Create starts the fill of d from nothing; what lay there is dropped. It owns
// r from here on, also when it fails, which is an ErrDisk.
func (s *Store) Create(d oci.Digest, r *Reservation) (*Ingest, error) {
	return s.create(d, r, privateMode)
}

// CreatePublic is Create for content that needed no credentials: the file says
// so itself, so that whoever finds it after a crash, without a record, knows it
// as well (KeptPublic).
func (s *Store) CreatePublic(d oci.Digest, r *Reservation) (*Ingest, error) {
	return s.create(d, r, publicMode)
}

// The modes of fills. The sticky bit means nothing to a file on Linux, costs
// nothing to set, and cannot come from a file system that knows no modes.
const (
	privateMode fs.FileMode = 0o600
	publicMode              = privateMode | fs.ModeSticky
)

func (s *Store) create(d oci.Digest, r *Reservation, mode fs.FileMode) (*Ingest, error) {
	f, err := s.createFill(d, mode)
	if errors.Is(err, fs.ErrExist) {
		// Not truncated: somebody may be reading the old one.
		if err = s.DropKept(d); err == nil {
			f, err = s.createFill(d, mode)
		}
	}
	if err != nil {
		r.Release()
		s.counters.writeFailures.Add(1)
		return nil, diskError("create fill "+d.String(), err)
	}
	if err := s.removeSide(d); err != nil {
		s.counters.writeFailures.Add(1)
		in := &Ingest{store: s, d: d, file: f, room: r}
		return nil, errors.Join(diskError("create fill "+d.String(), err), in.Abort())
	}
	s.giveBack(d, s.takeKept(d), nil) // somebody has removed that file
	in := &Ingest{store: s, d: d, file: f, room: r}
	if err := in.allocate(0, r.room()); err != nil {
		s.counters.writeFailures.Add(1)
		return nil, errors.Join(diskError("create fill "+d.String(), err), in.Abort())
	}
	return in, nil
}

func (s *Store) createFill(d oci.Digest, mode fs.FileMode) (f durable.File, err error) {
	name := place(fillsDir, d)
	err = s.withFolder(name, func() error {
		f, err = s.fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
		return err
	})
	return f, err
}

// DropKept unlinks what lies in fills/ for d beyond the work of this process. A
// file of d in blobs/ is none of it.
func (s *Store) DropKept(d oci.Digest) error {
	if err := s.removeSide(d); err != nil {
		return diskError("drop fill "+d.String(), err)
	}
	rest, err := s.unlink(place(fillsDir, d))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError("drop fill "+d.String(), err)
	}
	s.giveBack(d, s.takeKept(d), rest)
	return nil
}

// Resume goes on with the fill of d as it is: Ranges tells what is there, which
// may be nothing. It owns r from here on, also when it fails. The bytes that are
// there move from the used ones into the reservation: r is needed only for the
// rest (Kept tells how much that leaves). Pieces that this boot has not written are
// checked by their sums; whether a beginning without them can be trusted is for the
// caller to know (SameBoot) and to prove (the digest).
func (s *Store) Resume(d oci.Digest, r *Reservation) (*Ingest, error) {
	in, fi, err := s.reopen(d)
	if errors.Is(err, fs.ErrNotExist) {
		return s.Create(d, r)
	}
	if err != nil {
		r.Release()
		s.counters.writeFailures.Add(1)
		return nil, diskError("resume fill "+d.String(), err)
	}
	in.room = r
	there := int64(0)
	for _, have := range in.Ranges() {
		there += have.End - have.Off
	}
	counted := s.takeKept(d)
	in.bytes.Store(there)
	r.absorb(there, max(counted, s.allocatedOf(fi, there)), counted)
	return in, nil
}

// reopen opens the kept fill of d with what is known of its pieces. What nothing
// can be told of is as good as absent.
func (s *Store) reopen(d oci.Digest) (in *Ingest, fi fs.FileInfo, err error) {
	var ps *pieces
	k := s.keptFile(d)
	if k.pieces {
		if ps, err = s.loadPieces(d); err != nil {
			return nil, nil, err
		}
		if ps == nil {
			return nil, nil, errors.Join(fs.ErrNotExist, s.DropKept(d))
		}
	}
	f, fi, err := s.openRegular(place(fillsDir, d), os.O_RDWR)
	if err != nil {
		return nil, nil, err
	}
	in = &Ingest{store: s, d: d, file: f}
	in.len.Store(fi.Size())
	if ps != nil {
		if err := in.takeUp(ps, !k.own && !s.SameBoot()); err != nil {
			return nil, nil, errors.Join(err, ps.close(), f.Close())
		}
	}
	if have := in.Ranges(); len(have) > 0 && have[0].Off == 0 {
		in.front.Store(have[0].End)
	}
	return in, fi, nil
}

// Kept is the length of what lies in fills/ for d beyond the work of this
// process, 0 if nothing does.
func (s *Store) Kept(d oci.Digest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[d].size
}

// KeptPublic tells whether what lies in fills/ for d was made by CreatePublic.
func (s *Store) KeptPublic(d oci.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[d].public
}

// KeptPieces tells whether what lies in fills/ for d is a fill with piece state.
func (s *Store) KeptPieces(d oci.Digest) bool { return s.keptFile(d).pieces }

// keptAs describes a file in fills/.
func (s *Store) keptAs(fi fs.FileInfo) keptFile {
	return keptFile{size: fi.Size(), allocated: s.allocated(fi), public: fi.Mode()&fs.ModeSticky != 0, touched: fi.ModTime()}
}

// takeKept forgets a kept file and gives the bytes that it was counted with.
func (s *Store) takeKept(d oci.Digest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[d]
	delete(s.kept, d)
	return k.allocated
}

// Write goes on with the beginning, as WriteAt does at Front.
func (in *Ingest) Write(p []byte) (n int, err error) { return in.WriteAt(p, in.Front()) }

// WriteAt writes at an offset. Where the reservation does not reach it is extended
// by 8 MiB first, which may take 200 ms. An error is an ErrDisk (ErrNoSpace among
// them), and n tells how much of p is in the file all the same.
func (in *Ingest) WriteAt(p []byte, off int64) (n int, err error) {
	if short := int64(len(p)) - in.room.room(); short > 0 {
		if err := in.room.Grow(context.Background(), max(short, growStep)); err != nil {
			return 0, fmt.Errorf("write fill %s: %w", in.d, err)
		}
		if err := in.allocate(off, in.room.room()); err != nil {
			return 0, diskError("write fill "+in.d.String(), err)
		}
	}
	in.writing.RLock()
	defer in.writing.RUnlock()
	n, err = in.file.WriteAt(p, off)
	in.room.wrote(int64(n))
	in.bytes.Add(int64(n))
	raise(&in.len, off+int64(n))
	if off <= in.Front() {
		raise(&in.front, off+int64(n))
	}
	if err == nil && in.pieces != nil {
		err = in.pieces.wrote(p, off)
	}
	if err != nil {
		in.store.counters.writeFailures.Add(1)
	}
	return n, diskError("write fill "+in.d.String(), err)
}

// raise makes a the larger of itself and n.
func raise(a *atomic.Int64, n int64) {
	for was := a.Load(); n > was && !a.CompareAndSwap(was, n); was = a.Load() {
	}
}

// Reach promises room for so many bytes of the blob to be in the file, as Reserve
// does: for a resumed fill, of which only what is missing is to be reserved.
func (in *Ingest) Reach(ctx context.Context, bytes int64) error {
	if short := in.room.missing(bytes); short > 0 {
		if err := in.room.Grow(ctx, short); err != nil {
			return err
		}
	}
	return diskError("allocate fill "+in.d.String(), in.allocate(in.Len(), in.room.room()))
}

// ReadAt reads what has been written, as io.ReaderAt.
func (in *Ingest) ReadAt(p []byte, off int64) (int, error) { return in.file.ReadAt(p, off) }

// Len is how long the file is.
func (in *Ingest) Len() int64 { return in.len.Load() }

// Front is how much of the blob's beginning is there, readable by everybody: what
// was there when the fill began, and what was written on from it.
func (in *Ingest) Front() int64 { return in.front.Load() }

// Commit ends a fill that is complete and verified. It gives the allocated
// bytes, which are used bytes from now on and are to be given to Remove one
// day. The file stays in fills/, readable, on no stable storage yet. After an
// error, which is an ErrDisk, the fill is gone as after Abort.
func (in *Ingest) Commit() (allocated int64, err error) {
	if in.ended {
		return 0, fmt.Errorf("commit fill %s: %w", in.d, fs.ErrClosed)
	}
	err = errors.Join(in.trim(), in.dropSide())
	var fi fs.FileInfo
	if err == nil {
		fi, err = in.file.Stat()
	}
	if err == nil && fi.Size() != in.Len() {
		err = fmt.Errorf("the file has %d bytes, %d were written", fi.Size(), in.Len())
	}
	if err != nil {
		return 0, errors.Join(diskError("commit fill "+in.d.String(), err), in.Abort())
	}
	in.ended = true
	if err := in.file.Close(); err != nil { // where writes fail late, they fail here
		in.unlink(in.store.allocated(fi))
		return 0, diskError("commit fill "+in.d.String(), err)
	}
	allocated = in.store.allocated(fi)
	in.room.end(allocated)
	return allocated, nil
}

// Keep ends a fill that is unfinished and leaves it in fills/ for Resume, now
// or after a restart. An empty one is aborted.
func (in *Ingest) Keep() error {
	if in.ended {
		return nil
	}
	err := in.trim()
	var fi fs.FileInfo
	if err == nil {
		fi, err = in.file.Stat()
	}
	if err != nil || fi.Size() == 0 {
		return errors.Join(diskError("keep fill "+in.d.String(), err), in.Abort())
	}
	in.ended = true
	_ = in.file.Truncate(fi.Size()) // as it is: but now is when it was touched last, after a restart, too
	k := in.store.keptAs(fi)
	k.own, k.touched, k.allocated = true, time.Now(), in.store.allocatedOf(fi, in.bytes.Load())
	if in.sparse() {
		k.pieces, k.allocated = true, k.allocated+sideSize(in.pieces.size)
		err = in.pieces.close()
	}
	in.store.mu.Lock()
	in.store.kept[in.d] = k
	in.store.mu.Unlock()
	in.room.end(k.allocated)
	return diskError("keep fill "+in.d.String(), errors.Join(err, in.file.Close()))
}

// Abort ends a fill and unlinks it. Its space is free at once, or when the last
// reader closes. It reports when the file could not be removed; it is counted
// on, then.
func (in *Ingest) Abort() error {
	if in.ended {
		return nil
	}
	serr := in.dropSide()
	in.ended = true
	allocated := need(in.bytes.Load())
	if fi, err := in.file.Stat(); err == nil {
		allocated = in.store.allocatedOf(fi, in.bytes.Load())
	}
	cerr := in.file.Close()
	return errors.Join(serr, cerr, in.unlink(allocated))
}

func (in *Ingest) unlink(allocated int64) error {
	s := in.store
	rest, err := s.removeHolding(place(fillsDir, in.d))
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist): // it lies there still
		s.mu.Lock()
		s.kept[in.d] = keptFile{size: in.Len(), allocated: allocated, touched: time.Now()}
		s.mu.Unlock()
		in.room.end(allocated)
		return diskError("abort fill "+in.d.String(), err)
	case s.opens.detach(in.d, allocated, rest):
		in.room.end(allocated)
		s.ledger.unlinked(allocated)
	default:
		rest.vacate()
		in.room.end(0)
	}
	return nil
}
