package durable

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// ReadAside is ReadAt for who reads what nobody has asked for: what of the file was not
// in the page cache is not there afterwards, so that it takes no place from what is
// used. Where the kernel does not say what is there (before Linux 6.5, under some
// filters), and of a file that is none of the kernel's, it is ReadAt.
//
//	fadvise(POSIX_FADV_RANDOM) cachestat pread fadvise(POSIX_FADV_DONTNEED)
func ReadAside(f File, p []byte, off int64) (n int, err error) {
	drop := false
	_ = control(f, func(fd int) error {
		// What is read ahead would look as if it had been there.
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM)
		var there unix.Cachestat_t
		err := unix.Cachestat(uint(fd), &unix.CachestatRange{Off: uint64(off), Len: uint64(len(p))}, &there, 0)
		drop = err == nil && there.Cache == 0
		return nil
	})
	n, err = f.ReadAt(p, off)
	if drop && n > 0 {
		_ = control(f, func(fd int) error { return unix.Fadvise(fd, off, int64(n), unix.FADV_DONTNEED) })
	}
	return n, err
}

// Uncache has what is read of a file come from the disk again, as far as nobody has the
// pages in use.
//
//	fadvise(POSIX_FADV_DONTNEED)
func Uncache(f File) {
	_ = control(f, func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) })
}

// control runs op on the descriptor of a file that has one.
func control(f File, op func(fd int) error) error {
	sc, ok := f.(syscall.Conn)
	if !ok {
		return syscall.EOPNOTSUPP
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = op(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
