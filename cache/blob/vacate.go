package blob

import (
	"errors"
	"io/fs"
	"os"

	"cistern/internal/durable"
)

// remnant is a removed file that is open still, so that its space can be given
// back by the time it is counted as free; nil where the file system does so with
// the name (durable.SpaceIsLate).
type remnant struct{ file durable.File }

// removeHolding unlinks a file. The remnant is to be vacated when nobody reads it.
//
//	open(name, O_WRONLY) unlink, where space is late
//	unlink, elsewhere
func (s *Store) removeHolding(name string) (*remnant, error) {
	if !s.late {
		return nil, s.fs.Remove(name)
	}
	f, err := s.fs.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return nil, s.fs.Remove(name) // what it is, and whether it is there, says this
	}
	if err := s.fs.Remove(name); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &remnant{f}, nil
}

// vacate gives the space back. That it failed changes nothing: it goes with the
// last descriptor, somewhat later.
func (r *remnant) vacate() {
	if r == nil {
		return
	}
	_ = durable.Vacate(r.file)
	_ = r.file.Close()
}

// inodeShare is what the file system takes for a file beside its blocks, where
// it makes inodes as it needs them.
const inodeShare = 512

// allocated is what a file takes.
func (s *Store) allocated(fi fs.FileInfo) int64 {
	if s.late {
		return durable.Allocated(fi) + inodeShare
	}
	return durable.Allocated(fi)
}

// allocate takes the space of the next n bytes from the file system at once,
// where it would otherwise take more than that while the file grows.
func (in *Ingest) allocate(n int64) error {
	if !in.store.late {
		return nil
	}
	at := in.Len()
	in.ahead = at + n
	return durable.Allocate(in.file, at, n)
}

// trim gives back what was allocated and not written.
func (in *Ingest) trim() error {
	if in.ahead <= durable.RoundUp(in.Len()) {
		return nil
	}
	return in.file.Truncate(in.Len())
}
