package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// SpaceIsLate tells whether statfs of the file system shows other space taken
// than what was written and not yet removed. XFS does: it promises a growing
// file up to twice its size, each run of blocks that is not written out yet four
// blocks more, and gives the space of a removed file back some time later.
// Allocate and Vacate make it prompt.
func SpaceIsLate(fsys FS) bool {
	d, ok := fsys.(*Dir)
	if !ok {
		return false
	}
	var st unix.Statfs_t
	var err error
	if cerr := d.raw.Control(func(fd uintptr) { err = unix.Fstatfs(int(fd), &st) }); cerr != nil {
		return false
	}
	return err == nil && st.Type == unix.XFS_SUPER_MAGIC
}

// Allocate takes the space of n bytes from an offset on, and leaves the length
// of the file alone. What is left over goes with Truncate.
//
//	fallocate(FALLOC_FL_KEEP_SIZE)
func Allocate(f File, off, n int64) error {
	sc, ok := f.(syscall.Conn)
	if !ok || n <= 0 {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, off, n)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	return nil
}

// Vacate gives back the space of a file that was removed while f, open for
// writing, had it open, and that nobody reads. A file with another name is left
// alone.
//
//	fstat ftruncate(0)
func Vacate(f File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !nameless(fi) {
		return nil
	}
	return f.Truncate(0)
}

func nameless(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 0
}
