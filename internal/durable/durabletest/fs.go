// Package durabletest is a file system for tests: FS, which lives in memory and
// can be crashed, and Faulty, which fails the operations of any durable.FS.
//
// FS keeps two states of everything: what processes see, and what is on stable
// storage. Sync and SyncDir carry the first over to the second, nothing else
// does for certain. It is as unkind as a journaling file system may be: data is
// lost page by page, sizes and names apart from data, names in any order that
// leaves the history of one name whole. A rename is one step, as durable.FS
// promises: it is in the journal whole or not at all, and what is moved into a
// new folder is not lost with it.
//
// It is no model of speed, of memory pressure, or of a file system that breaks
// its word. What it does must be what durable.Dir does: one conformance test and
// one random comparison run against both.
package durabletest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cistern/internal/durable"
)

// Options says how large an FS is.
type Options struct {
	Size   int64 // bytes; 0: a TiB
	Inodes int64 // files and folders; 0: as many as you like
}

// FS is the view that one process has of a disk in memory. Its methods may be
// called concurrently.
type FS struct {
	d *disk

	// guarded by d.mu
	off    bool // crashed or killed
	closed bool
}

var _ durable.FS = (*FS)(nil) // the twin of durable.Dir

// New makes an empty file system.
func New(o Options) *FS {
	if o.Size == 0 {
		o.Size = 1 << 40
	}
	if o.Inodes == 0 {
		o.Inodes = 1 << 40
	}
	d := &disk{o: o, locks: map[*node]chan struct{}{}, orphans: map[*node]bool{}}
	d.root = d.newNode(fs.ModeDir | 0o700)
	return &FS{d: d}
}

// Close implements durable.FS.
func (f *FS) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return err
	}
	f.closed = true
	return nil
}

// usable tells why the process cannot use the file system any more. d.mu is held.
func (f *FS) usable() error {
	switch {
	case f.off:
		return ErrOff
	case f.closed:
		return fs.ErrClosed
	}
	return nil
}

// enter locks the disk and looks a name up; n is nil if nothing lies there. The
// caller calls d.mu.Unlock, whatever comes back.
func (f *FS) enter(op, name string) (dir *node, base string, n *node, err error) {
	f.d.mu.Lock()
	if err = f.usable(); err == nil {
		dir, base, n, err = f.d.walk(name)
	}
	if err != nil {
		err = &fs.PathError{Op: op, Path: name, Err: err}
	}
	return dir, base, n, err
}

// OpenFile implements durable.FS.
func (f *FS) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	dir, base, n, err := f.enter("open", name)
	defer f.d.mu.Unlock()
	if err == nil && n == nil {
		n, err = f.create(dir, base, flag, perm)
	} else if err == nil {
		err = mayOpen(n, flag)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: cause(err)}
	}
	if flag&os.O_TRUNC != 0 && n.mode.IsRegular() {
		f.d.resize(n, 0)
	}
	n.opens++
	return &file{fs: f, n: n, name: name, flag: flag}, nil
}

func (f *FS) create(dir *node, base string, flag int, perm fs.FileMode) (*node, error) {
	if flag&os.O_CREATE == 0 {
		return nil, syscall.ENOENT
	}
	if f.d.inodes >= f.d.o.Inodes {
		return nil, syscall.ENOSPC
	}
	n := f.d.newNode(perm & (fs.ModePerm | fs.ModeSticky))
	f.d.change(half{dir, base, n})
	return n, nil
}

// mayOpen refuses what openat2 refuses of a thing that is there.
func mayOpen(n *node, flag int) error {
	writing := flag&(os.O_WRONLY|os.O_RDWR) != 0
	switch {
	case flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return syscall.EEXIST
	case n.mode.Type() == fs.ModeSymlink:
		return syscall.ELOOP
	case n.mode.IsDir() && (writing || flag&os.O_CREATE != 0):
		return syscall.EISDIR
	case n.mode.Type() == fs.ModeNamedPipe && flag&os.O_WRONLY != 0:
		return syscall.ENXIO // nobody reads it
	}
	return nil
}

// Mkdir implements durable.FS.
func (f *FS) Mkdir(name string) error { return f.plant("mkdir", name, fs.ModeDir|0o700, blockSize) }

// Plant puts something where it lies in the way: a symbolic link that leads
// nowhere (fs.ModeSymlink) or a fifo (fs.ModeNamedPipe).
func (f *FS) Plant(name string, mode fs.FileMode) error { return f.plant("plant", name, mode, 0) }

func (f *FS) plant(op, name string, mode fs.FileMode, takes int64) error {
	dir, base, n, err := f.enter(op, name)
	defer f.d.mu.Unlock()
	switch {
	case err != nil:
		return err
	case n != nil:
		err = syscall.EEXIST
	case f.d.inodes >= f.d.o.Inodes || f.d.used+takes > f.d.o.Size:
		err = syscall.ENOSPC
	default:
		f.d.change(half{dir, base, f.d.newNode(mode)})
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Rename implements durable.FS.
func (f *FS) Rename(from, to string) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	err := f.usable()
	if err == nil {
		err = f.d.rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (d *disk) rename(from, to string) error {
	fromDir, fromBase, n, err := d.walk(from)
	if err != nil {
		return err
	}
	toDir, toBase, over, err := d.walk(to)
	switch {
	case err != nil:
		return err
	case n == nil:
		return syscall.ENOENT
	case n == over:
		return nil
	case n.mode.IsDir() && strings.HasPrefix(path.Clean(to)+"/", path.Clean(from)+"/"):
		return syscall.EINVAL
	case over != nil && over.mode.IsDir():
		return syscall.EEXIST
	case over != nil && n.mode.IsDir():
		return syscall.ENOTDIR
	}
	d.change(half{fromDir, fromBase, nil}, half{toDir, toBase, n})
	return nil
}

// Remove implements durable.FS.
func (f *FS) Remove(name string) error {
	dir, base, n, err := f.enter("remove", name)
	defer f.d.mu.Unlock()
	switch {
	case err != nil:
		return err
	case n == nil:
		err = syscall.ENOENT
	case n == f.d.root:
		err = syscall.EINVAL
	case len(n.entries) > 0:
		err = syscall.ENOTEMPTY
	default:
		f.d.change(half{dir, base, nil})
		return nil
	}
	return &fs.PathError{Op: "remove", Path: name, Err: err}
}

// Lstat implements durable.FS.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	_, _, n, err := f.enter("lstat", name)
	defer f.d.mu.Unlock()
	if err == nil && n == nil {
		err = &fs.PathError{Op: "lstat", Path: name, Err: syscall.ENOENT}
	}
	if err != nil {
		return nil, err
	}
	return n.info(path.Base(name)), nil
}

// ReadDir implements durable.FS. The order is that of the names, so that a
// history can be told again; entries say what was there when they were read, as
// those of os.Root do.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	_, _, n, err := f.enter("open", name)
	defer f.d.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case n == nil:
		err = syscall.ENOENT
	case !n.mode.IsDir():
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	var entries []fs.DirEntry
	for _, base := range n.names() {
		entries = append(entries, fs.FileInfoToDirEntry(n.entries[base].info(base)))
	}
	return entries, nil
}

// SyncDir implements durable.FS: the names in the folder are on stable storage
// now, and with a rename its other half.
func (f *FS) SyncDir(name string) error {
	_, _, n, err := f.enter("open", name)
	defer f.d.mu.Unlock()
	switch {
	case err != nil:
		return err
	case n == nil:
		return &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
	case !n.mode.IsDir():
		return &fs.PathError{Op: "open", Path: name, Err: syscall.ENOTDIR}
	}
	f.d.settle(n)
	return nil
}

// Free implements durable.FS.
func (f *FS) Free() (size, free int64, err error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return 0, 0, err
	}
	return f.d.o.Size, f.d.o.Size - f.d.used, nil
}

// Lock implements durable.FS. Its locks are those of all FS of one disk.
func (f *FS) Lock(name string, patience time.Duration) (io.Closer, error) {
	h, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	patient := time.NewTimer(patience)
	defer patient.Stop()
	for {
		held, err := f.tryLock(h.(*file))
		switch {
		case err != nil:
			return nil, errors.Join(err, h.Close())
		case held == nil:
			return h, nil
		}
		select {
		case <-held:
		case <-patient.C:
			err := fmt.Errorf("%s is %w (process %d)", name, durable.ErrLocked, os.Getpid())
			return nil, errors.Join(err, h.Close())
		}
	}
}

// tryLock takes the lock, or gives what will be closed when it is free.
func (f *FS) tryLock(h *file) (held chan struct{}, err error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return nil, err
	}
	if held := f.d.locks[h.n]; held != nil {
		return held, nil
	}
	h.lock = make(chan struct{})
	f.d.locks[h.n] = h.lock
	return nil, nil
}

// walk finds a name. d.mu is held.
func (d *disk) walk(name string) (dir *node, base string, n *node, err error) {
	if !filepath.IsLocal(name) {
		return nil, "", nil, syscall.EINVAL
	}
	name = path.Clean(name)
	if name == "." {
		return nil, ".", d.root, nil
	}
	dir = d.root
	parts := strings.Split(name, "/")
	for _, part := range parts[:len(parts)-1] {
		next := dir.entries[part]
		switch {
		case next == nil:
			return nil, "", nil, syscall.ENOENT
		case next.mode.Type() == fs.ModeSymlink:
			return nil, "", nil, syscall.ELOOP
		case !next.mode.IsDir():
			return nil, "", nil, syscall.ENOTDIR
		}
		dir = next
	}
	base = parts[len(parts)-1]
	return dir, base, dir.entries[base], nil
}

// cause is what a PathError wraps, so that nobody wraps one twice.
func cause(err error) error {
	if pe, ok := err.(*fs.PathError); ok {
		return pe.Err
	}
	return err
}

// names are those in a folder, sorted.
func (n *node) names() []string {
	names := make([]string, 0, len(n.entries))
	for name := range n.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// unlock gives a lock free. d.mu is held.
func (d *disk) unlock(n *node) {
	if held := d.locks[n]; held != nil {
		close(held)
		delete(d.locks, n)
	}
}
