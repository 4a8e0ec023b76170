package blob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// growStep is by how much an Ingest of unknown length extends its reservation.
const growStep = 8 * mib

// Ingest is a fill that is being written, strictly in order: the length of its
// file is how much of the blob is there. One goroutine writes and ends it;
// ReadAt and Len may be called by others meanwhile, and readers open the same
// file by Store.OpenFile. Exactly one of Commit, Keep and Abort ends it; later
// calls of these do nothing, so a deferred Abort is safe.
type Ingest struct {
	store *Store
	d     oci.Digest
	file  durable.File
	room  *Reservation
	len   atomic.Int64
	ahead int64 // allocated up to here, where space is late
	ended bool
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
	s.giveBack(d, s.takeKept(d), nil) // somebody has removed that file
	in := &Ingest{store: s, d: d, file: f, room: r}
	if err := in.allocate(r.room()); err != nil {
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
	rest, err := s.unlink(place(fillsDir, d))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError("drop fill "+d.String(), err)
	}
	s.giveBack(d, s.takeKept(d), rest)
	return nil
}

// Resume goes on with the fill of d where it stands, and gives its length: 0 if
// nothing was there. It owns r from here on, also when it fails. The bytes that
// are there move from the used ones into the reservation: r is needed only for
// the rest (Kept tells how much that leaves). Whether what is there can be
// trusted is for the caller to know (SameBoot) and to prove (the digest).
func (s *Store) Resume(d oci.Digest, r *Reservation) (*Ingest, int64, error) {
	f, fi, err := s.openRegular(place(fillsDir, d), os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		in, err := s.Create(d, r)
		return in, 0, err
	}
	var size int64
	if err == nil {
		size = fi.Size()
		if _, err = f.Seek(size, 0); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		r.Release()
		s.counters.writeFailures.Add(1)
		return nil, 0, diskError("resume fill "+d.String(), err)
	}
	r.absorb(size, s.allocated(fi), s.takeKept(d))
	in := &Ingest{store: s, d: d, file: f, room: r}
	in.len.Store(size)
	return in, size, nil
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

// keptAs describes a file in fills/.
func (s *Store) keptAs(fi fs.FileInfo) keptFile {
	return keptFile{fi.Size(), s.allocated(fi), fi.Mode()&fs.ModeSticky != 0}
}

// takeKept forgets a kept file and gives the bytes that it was counted with.
func (s *Store) takeKept(d oci.Digest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[d]
	delete(s.kept, d)
	return k.allocated
}

// Write appends. Where the reservation does not reach it is extended by 8 MiB
// first, which may take 200 ms. An error is an ErrDisk (ErrNoSpace among them),
// and n tells how much of p is in the file all the same.
func (in *Ingest) Write(p []byte) (n int, err error) {
	if short := int64(len(p)) - in.room.room(); short > 0 {
		if err := in.room.Grow(context.Background(), max(short, growStep)); err != nil {
			return 0, fmt.Errorf("write fill %s: %w", in.d, err)
		}
		if err := in.allocate(in.room.room()); err != nil {
			return 0, diskError("write fill "+in.d.String(), err)
		}
	}
	n, err = in.file.Write(p)
	in.room.wrote(int64(n))
	in.len.Add(int64(n))
	if err != nil {
		in.store.counters.writeFailures.Add(1)
	}
	return n, diskError("write fill "+in.d.String(), err)
}

// Reach promises room for the file to become size bytes long, as Reserve does:
// for a resumed fill, of which only what is missing is to be reserved.
func (in *Ingest) Reach(ctx context.Context, size int64) error {
	if short := size - in.Len() - in.room.room(); short > 0 {
		if err := in.room.Grow(ctx, short); err != nil {
			return err
		}
	}
	return diskError("allocate fill "+in.d.String(), in.allocate(in.room.room()))
}

// ReadAt reads what has been written, as io.ReaderAt.
func (in *Ingest) ReadAt(p []byte, off int64) (int, error) { return in.file.ReadAt(p, off) }

// Len is how many bytes are in the file, readable by everybody.
func (in *Ingest) Len() int64 { return in.len.Load() }

// Commit ends a fill that is complete and verified. It gives the allocated
// bytes, which are used bytes from now on and are to be given to Remove one
// day. The file stays in fills/, readable, on no stable storage yet. After an
// error, which is an ErrDisk, the fill is gone as after Abort.
func (in *Ingest) Commit() (allocated int64, err error) {
	if in.ended {
		return 0, fmt.Errorf("commit fill %s: %w", in.d, fs.ErrClosed)
	}
	err = in.trim()
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
	k := in.store.keptAs(fi)
	in.store.mu.Lock()
	in.store.kept[in.d] = k
	in.store.mu.Unlock()
	in.room.end(k.allocated)
	return diskError("keep fill "+in.d.String(), in.file.Close())
}

// Abort ends a fill and unlinks it. Its space is free at once, or when the last
// reader closes. It reports when the file could not be removed; it is counted
// on, then.
func (in *Ingest) Abort() error {
	if in.ended {
		return nil
	}
	in.ended = true
	allocated := need(in.Len())
	if fi, err := in.file.Stat(); err == nil {
		allocated = in.store.allocated(fi)
	}
	cerr := in.file.Close()
	return errors.Join(cerr, in.unlink(allocated))
}

func (in *Ingest) unlink(allocated int64) error {
	s := in.store
	rest, err := s.removeHolding(place(fillsDir, in.d))
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist): // it lies there still
		s.mu.Lock()
		s.kept[in.d] = keptFile{size: in.Len(), allocated: allocated}
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
