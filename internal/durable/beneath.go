package durable

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// os.Root walks a path part by part: a rename between two folders three deep is
// twenty system calls, and so is a third of a checkpoint. One openat2 confines
// as well; where there is none, in kernels before 5.6 and under filters that
// refuse it, os.Root does the work.

// confined is how no path leaves the directory, and follows no link in it.
const confined = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// errWalk says that this kernel or sandbox has no openat2.
var errWalk = errors.New("no openat2")

// descriptor opens name, which stays below the directory. The caller closes it.
func (d *Dir) descriptor(name string, flag int, mode uint32) (fd int, err error) {
	if !filepath.IsLocal(name) {
		return -1, syscall.EINVAL
	}
	how := unix.OpenHow{Flags: uint64(flag) | unix.O_CLOEXEC | unix.O_NOFOLLOW, Mode: uint64(mode), Resolve: confined}
	for {
		// Control keeps the directory open while the kernel uses it.
		if cerr := d.raw.Control(func(dirfd uintptr) { fd, err = unix.Openat2(int(dirfd), name, &how) }); cerr != nil {
			return -1, fs.ErrClosed // there is no other reason
		}
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN):
		case errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EPERM):
			return -1, errWalk
		default:
			return -1, err
		}
	}
}

// within runs op on the folder of name and on the last part of it.
func (d *Dir) within(name string, op func(dirfd int, base string) error) error {
	dirfd, err := d.descriptor(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(op(dirfd, path.Base(name)), unix.Close(dirfd))
}

// Rename implements FS. A folder is in the way, as it is for os.Rename.
//
//	openat2(folder) twice fstatat renameat close twice
func (d *Dir) Rename(from, to string) error {
	err := d.within(from, func(fromfd int, fromBase string) error {
		return d.within(to, func(tofd int, toBase string) error {
			var st unix.Stat_t
			if err := unix.Fstatat(tofd, toBase, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return unix.Renameat(fromfd, fromBase, tofd, toBase)
			}
			if err := unix.Fstatat(fromfd, fromBase, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
			return syscall.EEXIST
		})
	})
	switch {
	case errors.Is(err, errWalk):
		return d.root.Rename(from, to)
	case err != nil:
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// Remove implements FS.
//
//	openat2(folder) unlinkat close
func (d *Dir) Remove(name string) error {
	err := d.within(name, func(dirfd int, base string) error {
		err := unix.Unlinkat(dirfd, base, 0)
		if errors.Is(err, syscall.EISDIR) {
			err = unix.Unlinkat(dirfd, base, unix.AT_REMOVEDIR)
		}
		return err
	})
	switch {
	case errors.Is(err, errWalk):
		return d.root.Remove(name)
	case err != nil:
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// Lstat implements FS.
//
//	openat2(name, O_PATH) fstat close
func (d *Dir) Lstat(name string) (fs.FileInfo, error) {
	fd, err := d.descriptor(name, unix.O_PATH, 0)
	switch {
	case errors.Is(err, errWalk):
		return d.root.Lstat(name)
	case err != nil:
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	fi, err := f.Stat()
	return fi, errors.Join(err, f.Close())
}

// SyncDir implements FS.
//
//	openat2(name, O_DIRECTORY) fsync close
func (d *Dir) SyncDir(name string) error {
	fd, err := d.descriptor(name, unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, errWalk):
		return d.syncWalking(name)
	case err != nil:
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	for err = unix.Fsync(fd); errors.Is(err, syscall.EINTR); {
		err = unix.Fsync(fd)
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return &fs.PathError{Op: "sync", Path: name, Err: err}
	}
	return nil
}

// SyncAll implements FS.
//
//	syncfs
func (d *Dir) SyncAll() (err error) {
	cerr := d.raw.Control(func(fd uintptr) {
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Syncfs(int(fd))
		}
	})
	if cerr != nil {
		return fs.ErrClosed // there is no other reason
	}
	return os.NewSyscallError("syncfs", err)
}

func (d *Dir) syncWalking(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
