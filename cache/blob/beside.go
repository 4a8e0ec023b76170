package blob

import (
	"errors"
	"fmt"
	"io/fs"

	"cistern/internal/durable"
)

// maxBeside bounds a file that WriteBeside has written, in bytes.
const maxBeside = 4 << 20

// ReadBeside reads a small file that WriteBeside has written; nil if there is none.
func (s *Store) ReadBeside(name string) ([]byte, error) {
	data, err := durable.ReadUpTo(s.fs, name, maxBeside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, diskError("read "+name, err)
}

// WriteBeside puts a small file that others keep in the cache directory, beside the
// blobs, on stable storage, whole or not at all, and counts what it takes: it waits for no
// room, of which it needs next to nothing. Two writers of one name exclude each other.
func (s *Store) WriteBeside(name string, data []byte) error {
	if len(data) > maxBeside {
		return fmt.Errorf("write %s: longer than the %d bytes that can be read again", name, maxBeside)
	}
	before := s.allocatedBeside(name)
	err := durable.WriteFile(s.fs, name, data)
	s.ledger.addUsed(s.allocatedBeside(name)-before, true)
	return diskError("write "+name, err)
}

func (s *Store) allocatedBeside(name string) int64 {
	fi, err := s.fs.Lstat(name)
	if err != nil {
		return 0
	}
	return durable.Allocated(fi)
}
