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

const (
	// inodeShare is what the file system takes for a file beside its blocks,
	// where it makes inodes as it needs them.
	inodeShare = 512
	// treeShare is the block that tells where the others are. A file in few
	// pieces, as one of up to treeFrom bytes mostly is, needs none; the block
	// comes when it is written out, after its size was asked for.
	treeShare = 4096
	treeFrom  = 4 << 20
)

// allocated is what a file takes, and will take when it is written out.
func (s *Store) allocated(fi fs.FileInfo) int64 { return s.allocatedOf(fi, fi.Size()) }

// allocatedOf is allocated for a file with holes, of which so many bytes are written.
func (s *Store) allocatedOf(fi fs.FileInfo, written int64) int64 {
	n := durable.AllocatedOf(fi, written)
	if s.late {
		n += inodeShare
	}
	if fi.Size() > treeFrom {
		n += treeShare
	}
	return n
}

// allocate takes the space of n bytes from an offset on from the file system at
// once, where it would otherwise take more than that while the file grows.
func (in *Ingest) allocate(off, n int64) error {
	if !in.store.late {
		return nil
	}
	in.ahead = max(in.ahead, off+n)
	return durable.Allocate(in.file, off, n)
}

// trim gives back what was allocated and not written.
func (in *Ingest) trim() error {
	if in.ahead <= durable.RoundUp(in.Len()) {
		return nil
	}
	return in.file.Truncate(in.Len())
}
