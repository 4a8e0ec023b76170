// Package disk looks at file systems from the outside: how much a folder takes,
// how full a file system is, and one of its own for what is measured. It
// formats nothing but images that it has made itself. Linux only.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Allocated adds the blocks of everything below dir, folders and dir itself
// included, in bytes: what du says. Files that go meanwhile do not count.
func Allocated(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			total += st.Blocks * 512
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("allocated: %w", err)
	}
	return total, nil
}

// Used is what is not free on the file system that holds dir, in bytes: unlinked
// files that are still open, and blocks promised but not yet written, included.
func Used(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize, nil
}

// Flush writes back all that waits in memory for the file system that holds dir:
// between two measurements, so that the second does not pay for the first.
func Flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("flush %s: %w", dir, err)
	}
	return nil
}

// Uncache has the kernel forget the pages of one file, as after a reboot.
func Uncache(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("uncache: %w", err)
	}
	defer f.Close()
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		return fmt.Errorf("uncache %s: %w", name, err)
	}
	return nil
}

// Seen is what came of watching a file system.
type Seen struct {
	// Highest use in bytes.
	Highest int64
	Samples int
	// Above is how many samples were over the limit, Longest how long in one piece,
	// from the first of them to the next that was not.
	Above   int
	Longest time.Duration
}

// Watch samples Used of the file system that holds dir until ctx ends. limit is in
// the same bytes.
//
// ext4 with delayed allocation counts a block twice for some milliseconds, between
// taking it and no longer promising it: with eight files of 1 MiB at most, each
// written, synced and unlinked, statfs had 9.0 MiB in use at times; with nodelalloc
// 8.03 (measured). Hence Longest, and a look at both.
func Watch(ctx context.Context, dir string, every time.Duration, limit int64) (Seen, error) {
	s := Seen{Highest: math.MinInt64}
	var since time.Time // over the limit; zero: it is not
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		n, err := Used(dir)
		if err != nil {
			return s, err
		}
		s.Highest = max(s.Highest, n)
		s.Samples++
		now := time.Now()
		if n > limit {
			s.Above++
			if since.IsZero() {
				since = now
			}
		}
		if !since.IsZero() {
			s.Longest = max(s.Longest, now.Sub(since))
		}
		if n <= limit {
			since = time.Time{}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return s, nil
		}
	}
}
