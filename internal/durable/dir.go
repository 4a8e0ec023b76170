package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process holds a lock.
var ErrLocked = errors.New("held by another process")

// Dir is the real FS. It holds the directory itself, not its name: a directory
// that is moved stays the same Dir, and one that was deleted gives
// fs.ErrNotExist for ever instead of coming back to life somewhere else.
type Dir struct {
	root *os.Root
	self *os.File // the same directory, for what os.Root does not offer
	raw  syscall.RawConn
}

var _ FS = (*Dir)(nil) // Dir is what runs; a crashable twin is for tests

// OpenDir opens the directory at path, which must exist.
func OpenDir(path string) (*Dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	self, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	raw, err := self.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, self.Close(), root.Close())
	}
	return &Dir{root, self, raw}, nil
}

// Close implements FS.
func (d *Dir) Close() error { return errors.Join(d.self.Close(), d.root.Close()) }

// OpenFile implements FS. One openat2 confines a path of four parts in a third
// of the time that os.Root takes to walk it (3.6 us against 11.4 us), and this
// is on the way of every hit.
func (d *Dir) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	mode := uint32(0)
	if flag&os.O_CREATE != 0 {
		mode = uint32(perm.Perm())
		if perm&fs.ModeSticky != 0 {
			mode |= syscall.S_ISVTX
		}
	}
	if flag&os.O_EXCL == 0 { // else it is no fifo, and os.NewFile need not ask epoll
		flag |= unix.O_NONBLOCK
	}
	fd, err := d.descriptor(name, flag, mode)
	switch {
	case errors.Is(err, errWalk):
		return d.openWalking(name, flag, perm.Perm()) // os.Root knows no other bits
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(d.root.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.root.Name(), name)), nil
}

// openWalking serves kernels before 5.6 and sandboxes whose filter refuses
// openat2 (EPERM). os.Root follows links that stay inside, so look first.
func (d *Dir) openWalking(name string, flag int, perm fs.FileMode) (File, error) {
	for dir := name; dir != "."; dir = filepath.Dir(dir) {
		fi, err := d.root.Lstat(dir)
		if err == nil && fi.Mode().Type() == fs.ModeSymlink {
			return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
		}
	}
	f, err := d.root.OpenFile(name, flag|syscall.O_NONBLOCK, perm)
	if err != nil {
		return nil, err // not f: a nil *os.File is a non-nil File
	}
	return f, nil
}

// Mkdir implements FS.
func (d *Dir) Mkdir(name string) error { return d.root.Mkdir(name, 0o700) }

// ReadDir implements FS.
func (d *Dir) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	return entries, errors.Join(err, f.Close())
}

// Free implements FS.
func (d *Dir) Free() (size, free int64, err error) {
	var st unix.Statfs_t
	if cerr := d.raw.Control(func(fd uintptr) { err = unix.Fstatfs(int(fd), &st) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return 0, 0, os.NewSyscallError("fstatfs", err)
	}
	return int64(st.Blocks) * st.Frsize, int64(st.Bavail) * st.Frsize, nil
}

// lockPoll is how often a lock is tried: flock has no time limit of its own.
const lockPoll = 20 * time.Millisecond

// Lock implements FS by flock, which ends with the process however that ends.
// The holder's process id is written into the file for the message of the next.
func (d *Dir) Lock(name string, patience time.Duration) (io.Closer, error) {
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if errors.Is(err, syscall.EROFS) { // others may hold it all the same, from a mount that writes
		if there, rerr := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0); rerr == nil {
			f, err = there, nil
		}
	}
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	for {
		err = flock(f)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
		<-time.After(lockPoll)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("%s is %w%s", f.Name(), ErrLocked, holder(f))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// Only the message of another process reads it: a failure changes nothing.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

func flock(f *os.File) (err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) }); cerr != nil {
		return cerr
	}
	return err
}

func holder(f *os.File) string {
	var buf [20]byte
	n, _ := f.ReadAt(buf[:], 0) // io.EOF is the rule, and no holder no harm
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}
