package cache

import (
	"errors"
	"fmt"
	"io/fs"
)

// Notes are small files that others keep in the cache directory: it has one process at
// a time, all that lies in it counts against the cap, and an index that is lost takes
// none of them with it.

// Note reads a note; fs.ErrNotExist if there is none, or no disk.
func (c *Cache) Note(name string) ([]byte, error) {
	if c.store == nil {
		return nil, fmt.Errorf("read %s: %w", name, fs.ErrNotExist)
	}
	data, err := c.store.ReadBeside(name)
	if data == nil && err == nil {
		err = fmt.Errorf("read %s: %w", name, fs.ErrNotExist)
	}
	return data, err
}

// WriteNote makes data the content of a note, durably. It fails, and leaves the note as
// it was, where the disk or the cap does not let it; not after Close. Two writers of one
// note exclude each other.
func (c *Cache) WriteNote(name string, data []byte) error {
	if !c.writable() {
		return fmt.Errorf("write %s: %w", name, errNoDisk)
	}
	room, err := c.store.Reserve(c.ctx, int64(len(data)))
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer room.Release()
	return c.store.WriteBeside(name, data)
}

var errNoDisk = errors.New("the cache directory cannot be used, or is read-only")
