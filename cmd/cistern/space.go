package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"cistern/cache/index"
	"cistern/internal/durable"
)

// available is how many bytes a cache in dir could come to hold: what is free
// there, and what it holds already, or a cache without a configured size would
// shrink at every start.
func available(dir string) (int64, error) {
	free, err := freeAt(dir)
	if err != nil {
		return 0, err
	}
	held, err := heldBy(dir)
	if err != nil {
		return 0, err
	}
	return free + held, nil
}

// freeAt is what may be written to the file system of dir, which need not exist.
func freeAt(dir string) (int64, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize, nil
		}
		parent := filepath.Dir(dir)
		if !errors.Is(err, syscall.ENOENT) || parent == dir {
			return 0, fmt.Errorf("free space at %s: %w", dir, err)
		}
		dir = parent
	}
}

// heldBy is what the index says that a cache holds; it asks for the lock first,
// and waits for nobody: whoever holds it will be reported soon enough.
func heldBy(dir string) (int64, error) {
	path := filepath.Join(dir, "index.db")
	if _, err := os.Stat(path); err != nil {
		return 0, nil // a new cache, or none that can be read
	}
	d, err := durable.OpenDir(dir)
	if err != nil {
		return 0, fmt.Errorf("look into %s: %w", dir, err)
	}
	defer d.Close()
	lock, err := d.Lock("cistern.lock", 0)
	if err != nil {
		return 0, fmt.Errorf("look into %s: %w", dir, err)
	}
	defer lock.Close()
	x, err := index.Open(path, index.Options{})
	if errors.Is(err, index.ErrBroken) {
		return 0, nil // it will be built anew; until then the cache is taken for empty
	}
	if err != nil {
		return 0, fmt.Errorf("look into %s: %w", dir, err)
	}
	_, bytes := x.Totals().Sum()
	return bytes, x.Close()
}
