package durabletest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// file is an open file of an FS. It implements durable.File.
type file struct {
	fs   *FS
	n    *node
	name string
	flag int

	// guarded by fs.d.mu
	off    int64
	closed bool
	lock   chan struct{} // what it holds the lock by
}

// enter locks the disk for an operation on an open file; the caller unlocks.
func (f *file) enter(op string, allowed bool) error {
	f.fs.d.mu.Lock()
	var err error
	switch {
	case f.fs.off:
		err = ErrOff
	case f.closed:
		err = fs.ErrClosed
	case !allowed:
		err = syscall.EBADF
	case f.n.mode.IsDir() && (op == "read" || op == "readat"):
		err = syscall.EISDIR
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: f.name, Err: err}
	}
	return nil
}

func (f *file) reads() bool  { return f.flag&os.O_WRONLY == 0 }
func (f *file) writes() bool { return f.flag&(os.O_WRONLY|os.O_RDWR) != 0 }

// Read implements io.Reader.
func (f *file) Read(p []byte) (int, error) {
	err := f.enter("read", f.reads())
	defer f.fs.d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n := f.n.seen.read(p, f.off)
	f.off += int64(n)
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	err := f.enter("readat", f.reads())
	defer f.fs.d.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case off < 0:
		return 0, &fs.PathError{Op: "readat", Path: f.name, Err: errors.New("negative offset")}
	}
	n := f.n.seen.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// read copies what is there at off.
func (c *content) read(p []byte, off int64) (n int) {
	p = p[:max(0, min(int64(len(p)), c.size-off))]
	for n < len(p) {
		at := off + int64(n)
		end := min(len(p), n+blockSize-int(at%blockSize))
		if b := c.at(int(at / blockSize)); b != nil {
			copy(p[n:end], b.data[at%blockSize:])
		} else {
			clear(p[n:end])
		}
		n = end
	}
	return n
}

// Write implements io.Writer. On a full disk it writes what fits.
func (f *file) Write(p []byte) (n int, err error) {
	err = f.enter("write", f.writes())
	defer f.fs.d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if f.flag&os.O_APPEND != 0 {
		f.off = f.n.seen.size
	}
	n, err = f.write(p, f.off)
	f.off += int64(n)
	return n, err
}

// WriteAt implements io.WriterAt. On a full disk it writes what fits.
func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	if f.flag&os.O_APPEND != 0 {
		return 0, errors.New("os: invalid use of WriteAt on file opened with O_APPEND") // as package os says it
	}
	err = f.enter("writeat", f.writes())
	defer f.fs.d.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case off < 0:
		return 0, &fs.PathError{Op: "writeat", Path: f.name, Err: errors.New("negative offset")}
	}
	return f.write(p, off)
}

// write puts p at off; the disk is locked.
func (f *file) write(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		b := f.fs.d.own(f.n, int(off/blockSize))
		if b == nil {
			return n, &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
		m := copy(b.data[off%blockSize:], p[n:])
		n += m
		off += int64(m)
		f.n.seen.size = max(f.n.seen.size, off)
	}
	f.n.modified = time.Now()
	return n, nil
}

// Seek implements io.Seeker.
func (f *file) Seek(offset int64, whence int) (int64, error) {
	err := f.enter("seek", true)
	defer f.fs.d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += f.n.seen.size
	}
	if offset < 0 {
		return 0, &fs.PathError{Op: "seek", Path: f.name, Err: syscall.EINVAL}
	}
	f.off = offset
	return offset, nil
}

// Truncate implements durable.File.
func (f *file) Truncate(size int64) error {
	err := f.enter("truncate", true)
	defer f.fs.d.mu.Unlock()
	if err == nil && (size < 0 || !f.writes()) {
		err = &fs.PathError{Op: "truncate", Path: f.name, Err: syscall.EINVAL}
	}
	if err == nil {
		f.fs.d.resize(f.n, size)
	}
	return err
}

// Stat implements durable.File.
func (f *file) Stat() (fs.FileInfo, error) {
	err := f.enter("stat", true)
	defer f.fs.d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.n.info(f.name), nil
}

// Sync implements durable.File.
func (f *file) Sync() error {
	err := f.enter("sync", true)
	defer f.fs.d.mu.Unlock()
	if err != nil {
		return err
	}
	if f.n.mode.IsDir() {
		f.fs.d.settle(f.n)
	} else {
		f.n.settle()
	}
	return nil
}

// loseDirty is what a failed fsync does: what was to be written out counts as
// written from now on.
func (f *file) loseDirty() {
	f.fs.d.mu.Lock()
	defer f.fs.d.mu.Unlock()
	f.n.lose()
}

// Close implements io.Closer.
func (f *file) Close() error {
	err := f.enter("close", true)
	defer f.fs.d.mu.Unlock()
	if err != nil {
		return err
	}
	f.closed = true
	if f.lock != nil {
		f.fs.d.unlock(f.n)
	}
	f.n.opens--
	f.fs.d.forgetIfUnused(f.n)
	return nil
}
