package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// File is an open blob or fill with a description of its own: sendfile moves
// its offset, so a File has one user at a time. It stays readable when the blob
// is removed, and its space counts as used until it is closed.
type File struct {
	durable.File       // an *os.File within: give this to io.Copy and http.ServeContent
	Size         int64 // bytes, at the time of opening; a fill grows on
	Fill         bool  // it lay in fills/: a fill, or a blob that is not promoted yet

	of    *opened
	done  atomic.Bool
	store *Store
	d     oci.Digest
}

// OpenFile opens a digest for reading: the blob if there is one, else the fill.
// fs.ErrNotExist if there is neither; ErrForeign (an fs.ErrNotExist too) if
// something else lies there; anything else is an ErrDisk. Whether the bytes are
// right is not its business. It never blocks and follows no link.
func (s *Store) OpenFile(d oci.Digest) (*File, error) {
	for {
		of := s.opens.add(d)
		f, size, tree, err := s.openPlaces(d)
		if err != nil {
			s.drop(d, of)
			return nil, fmt.Errorf("open blob %s: %w", d, err)
		}
		file := &File{File: f, Size: size, Fill: tree == fillsDir, of: of, store: s, d: d}
		if s.opens.stands(d, of) {
			return file, nil
		}
		// A file was removed meanwhile, and what is open may be the next one,
		// whose removal would not know of this reader.
		if err := file.Close(); err != nil {
			return nil, diskError("open blob "+d.String(), err)
		}
	}
}

// OpenLying opens the file of a digest in blobs/ and describes what it has
// opened. Its errors are those of OpenFile.
func (s *Store) OpenLying(d oci.Digest) (*File, Found, error) {
	of := s.opens.add(d)
	f, fi, err := s.openRegular(place(blobsDir, d), os.O_RDONLY)
	if err != nil {
		s.drop(d, of)
		return nil, Found{}, fmt.Errorf("open blob %s: %w", d, err)
	}
	return &File{File: f, Size: fi.Size(), of: of, store: s, d: d}, s.found(d, fi), nil
}

// Close closes the file; the last one to close a removed blob gives its space
// back. Further calls do nothing.
func (f *File) Close() error {
	if f.done.Swap(true) {
		return nil
	}
	err := f.File.Close()
	f.store.drop(f.d, f.of)
	return err
}

// Reading tells whether a File of this digest is open.
func (s *Store) Reading(d oci.Digest) bool {
	s.opens.mu.Lock()
	defer s.opens.mu.Unlock()
	return s.opens.m[d] != nil
}

// Opened tells whether any File is open.
func (s *Store) Opened() bool {
	s.opens.mu.Lock()
	defer s.opens.mu.Unlock()
	return len(s.opens.m) > 0
}

// openPlaces looks in blobs/, in fills/, and in blobs/ again: a promotion moves
// the file from the second to the first between two looks.
func (s *Store) openPlaces(d oci.Digest) (f durable.File, size int64, tree string, err error) {
	missing := error(fs.ErrNotExist)
	for _, tree = range []string{blobsDir, fillsDir, blobsDir} {
		f, fi, err := s.openRegular(place(tree, d), os.O_RDONLY)
		if err == nil {
			return f, fi.Size(), tree, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, "", err
		}
		if errors.Is(err, ErrForeign) {
			missing = err // there may be a good one in the other place
		}
	}
	return nil, 0, "", missing
}

func (s *Store) openRegular(name string, flag int) (durable.File, fs.FileInfo, error) {
	f, err := s.fs.OpenFile(name, flag, 0)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, err
	case foreign(err):
		s.counters.foreign.Add(1)
		return nil, nil, fmt.Errorf("%w: %s (%w)", ErrForeign, name, err)
	default:
		return nil, nil, diskError("open", err)
	}
	fi, err := f.Stat()
	if err != nil {
		err = diskError("stat", err)
	} else if !fi.Mode().IsRegular() {
		s.counters.foreign.Add(1)
		err = fmt.Errorf("%w: %s is %s", ErrForeign, name, fi.Mode().Type())
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, fi, nil
}

// foreign tells from an error that no file of ours is there, but something else,
// or that something else is in the way to it.
func foreign(err error) bool {
	for _, no := range []error{syscall.ELOOP, syscall.ENXIO, syscall.ENOTDIR, syscall.EISDIR, syscall.ENOTEMPTY} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// drop ends one use of of and gives back what waited for it.
func (s *Store) drop(d oci.Digest, of *opened) {
	evicted, rest := s.opens.remove(d, of)
	rest.vacate()
	if evicted > 0 {
		s.ledger.closed(evicted)
	}
}

// opens counts the Files of each digest. One map under one mutex: its 50 ns are
// little beside the open itself.
type opens struct {
	mu sync.Mutex
	m  map[oci.Digest]*opened // only those with uses
}

// opened is one generation of a digest's file: after a removal the next file of
// that digest gets a new one.
type opened struct {
	uses    int
	evicted int64 // allocated bytes that the last use gives back
	rest    *remnant
}

func (o *opens) add(d oci.Digest) *opened {
	o.mu.Lock()
	defer o.mu.Unlock()
	of := o.m[d]
	if of == nil {
		of = &opened{}
		o.m[d] = of
	}
	of.uses++
	return of
}

// stands tells whether no file of d was removed since add.
func (o *opens) stands(d oci.Digest, of *opened) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.m[d] == of
}

func (o *opens) remove(d oci.Digest, of *opened) (evicted int64, rest *remnant) {
	o.mu.Lock()
	defer o.mu.Unlock()
	of.uses--
	if of.uses > 0 {
		return 0, nil
	}
	if o.m[d] == of {
		delete(o.m, d)
	}
	return of.evicted, of.rest
}

// detach hands allocated bytes of an unlinked file, and rest, to its readers; false if
// there is none. The file must be unlinked before: who opened it is counted by
// then, who comes later finds nothing.
func (o *opens) detach(d oci.Digest, allocated int64, rest *remnant) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	of := o.m[d]
	if of == nil {
		return false
	}
	of.evicted += allocated
	of.rest = rest
	delete(o.m, d)
	return true
}
