package blob

import (
	"errors"
	"fmt"
	"io/fs"

	"cistern/internal/durable"
)

// maxBeside bounds a file that WriteBeside has written, in bytes.
const maxBeside = 16 << 20

// ReadBeside reads a small file that WriteBeside has written; nil if there is none.
func (s *Store) ReadBeside(name string) ([]byte, error) {
	data, err := durable.ReadUpTo(s.fs, name, maxBeside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, diskError("read "+name, err)
}

// WriteBeside puts a small file that others keep in the cache directory, beside the
// blobs, on stable storage, whole or not at all, and counts what it takes. It waits for no
// room: who writes more than next to nothing has it reserved for as long as this takes.
// Two writers of one name exclude each other.
func (s *Store) WriteBeside(name string, data []byte) error {
	if len(data) > maxBeside {
		return fmt.Errorf("write %s: longer than the %d bytes that can be read again", name, maxBeside)
	}
	err := durable.WriteFile(s.fs, name, data)
	s.lookBeside(name)
	s.lookBeside(name + ".tmp") // of a process that was killed, or that could not be removed
	return diskError("write "+name, err)
}

// lookBeside counts what a file takes now.
func (s *Store) lookBeside(name string) {
	fi, err := s.fs.Lstat(name)
	switch {
	case err == nil:
		s.countBeside(name, durable.Allocated(fi))
	case errors.Is(err, fs.ErrNotExist):
		s.countBeside(name, 0)
	} // else it is looked at again when it is written again
}

// countBeside has the account follow what a file takes, in allocated bytes.
func (s *Store) countBeside(name string, now int64) {
	s.mu.Lock()
	delta := now - s.beside[name]
	s.beside[name] = now
	s.mu.Unlock()
	if delta != 0 {
		s.ledger.addUsed(delta, true)
	}
}
