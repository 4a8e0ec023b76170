// Package durable is what Cistern's stores ask of a file system: a seam of eleven
// operations confined to one directory (FS), the real one behind it (Dir), and
// the few sequences on top that survive a power cut, each with the system
// calls it is made of written above it.
//
// It knows nothing of blobs, indexes or space, it never retries a failed fsync
// (the pages that failed are marked clean: a second fsync says yes and lies),
// and it is not a general file-system abstraction: no operation is here that
// nobody calls.
package durable

import (
	"io"
	"io/fs"
	"syscall"
	"time"
)

// FS is one directory of a file system. Names are relative to it, separated by
// slashes, and local in the sense of filepath.IsLocal; no operation follows a
// symbolic link out of it. Errors are those of package os: errors.Is finds
// fs.ErrNotExist and the syscall.Errno. All methods may be called concurrently.
//
// Nothing is durable before Sync of the file and SyncDir of the folder that
// names it, or SyncAll: the implementation that loses everything else in a crash is a
// legal one.
type FS interface {
	// OpenFile opens with the flags of package os. No symbolic link is
	// followed, not even within the directory (syscall.ELOOP), and opening
	// never blocks on a fifo.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Mkdir makes one folder, mode 0700.
	Mkdir(name string) error
	// Rename moves a file, over another one if need be, in one step.
	Rename(from, to string) error
	// Remove unlinks a file or an empty folder.
	Remove(name string) error
	// Lstat describes what lies there, without following a link.
	Lstat(name string) (fs.FileInfo, error)
	// ReadDir lists a folder, unsorted.
	ReadDir(name string) ([]fs.DirEntry, error)
	// SyncDir makes the names in a folder durable.
	SyncDir(name string) error
	// SyncAll makes all durable that is there when it is called, files and
	// names, in the whole file system. Its error does not say what failed.
	SyncAll() error
	// Lock takes an exclusive lock on a file, which it makes, for as long as
	// the returned Closer is open. A lock held by another process is waited
	// for until patience is over, then the error wraps ErrLocked.
	Lock(name string, patience time.Duration) (io.Closer, error)
	// Free tells the size of the file system and what an unprivileged
	// process may still write to it, both in bytes.
	Free() (size, free int64, err error)
	// Close gives back the hold on the directory; files that are open stay so.
	Close() error
}

// File is an open file. Of a Dir it is an *os.File, so that io.Copy to a socket
// becomes sendfile; one goroutine at a time may use the offset (Read, Write,
// Seek), all the rest is safe to call concurrently.
type File interface {
	io.ReadWriteSeeker
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	Sync() error
}

// block is the unit in which file systems hand out space; the smallest one in
// common use that a file of one byte takes.
const block = 4096

// RoundUp gives the bytes that n bytes of content allocate at least.
func RoundUp(n int64) int64 { return (n + block - 1) / block * block }

// Changed is when a file's content or names last changed, by the clock of its
// file system; zero where that is not known.
func Changed(fi fs.FileInfo) time.Time {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Ctim == (syscall.Timespec{}) {
		return time.Time{}
	}
	return time.Unix(st.Ctim.Unix())
}

// Allocated is what a file or folder takes on disk, in bytes: its blocks, or
// its size rounded up where that is more. It is more where the file system
// compresses, or counts what is not yet written out (ZFS) as nothing.
func Allocated(fi fs.FileInfo) int64 { return AllocatedOf(fi, fi.Size()) }

// AllocatedOf is Allocated for a file with holes, of which so many bytes are
// written.
func AllocatedOf(fi fs.FileInfo, written int64) int64 {
	n := RoundUp(written)
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		n = max(n, st.Blocks*512)
	}
	return n
}
