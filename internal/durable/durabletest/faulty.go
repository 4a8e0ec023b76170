package durabletest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"cistern/internal/durable"
)

// Op is one operation on a file system. Kinds are "open", "create" (an open that
// may create), "mkdir", "rename", "remove", "lstat", "readdir", "syncdir",
// "syncall", "lock" and "free"; of an open file "read", "readat", "write" (at an offset, too), "seek", "stat",
// "truncate", "fsync" and "close".
type Op struct {
	N    int // from 1, in the order of beginning
	Kind string
	Name string // of a rename the new one
}

// String gives the kind and the name.
func (o Op) String() string { return o.Kind + " " + o.Name }

// Fault is what happens to an operation. The zero value does nothing.
type Fault struct {
	Stall <-chan struct{} // waited for before anything else
	Panic any             // thrown instead of the operation
	Err   error           // given instead of the operation's own
	Done  bool            // the operation takes effect, whatever Err says
	After func()          // called when the operation is over: a power cut
}

// Nth is the choice of the n-th operation, from 1.
func Nth(n int, f Fault) func(Op) *Fault {
	return func(op Op) *Fault {
		if op.N == n {
			return &f
		}
		return nil
	}
}

// Faulty is a durable.FS that notes each operation and has faults happen to
// those that Choose gives one for. A file whose fsync failed undone has lost
// what was to be written out, if it is one of an FS: the next fsync says yes,
// and lies. The FS below may be exchanged between operations.
type Faulty struct {
	durable.FS
	Choose func(Op) *Fault // nil: none; called concurrently

	mu    sync.Mutex // guards what follows
	trace []Op
}

// Trace gives the operations so far.
func (f *Faulty) Trace() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Op(nil), f.trace...)
}

// Count is how many operations there were.
func (f *Faulty) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.trace)
}

// do runs one operation, or has its fault happen. undone is called when it
// failed without effect.
func (f *Faulty) do(kind, name string, run func() error, undone func()) error {
	f.mu.Lock()
	op := Op{len(f.trace) + 1, kind, name}
	f.trace = append(f.trace, op)
	f.mu.Unlock()
	var fault *Fault
	if f.Choose != nil {
		fault = f.Choose(op)
	}
	if fault == nil {
		return run()
	}
	if fault.Stall != nil {
		<-fault.Stall
	}
	if fault.Panic != nil {
		panic(fault.Panic)
	}
	err := fault.Err
	switch {
	case err == nil:
		err = run() // as it is: io.EOF is compared by ==
	case fault.Done:
		err = errors.Join(run(), err)
	case undone != nil:
		undone()
	}
	if fault.After != nil {
		fault.After()
	}
	return err
}

// OpenFile implements durable.FS.
func (f *Faulty) OpenFile(name string, flag int, perm fs.FileMode) (h durable.File, err error) {
	kind := "open"
	if flag&os.O_CREATE != 0 {
		kind = "create"
	}
	err = f.do(kind, name, func() error {
		h, err = f.FS.OpenFile(name, flag, perm)
		return err
	}, nil)
	if err != nil && h != nil {
		return nil, errors.Join(err, h.Close())
	}
	if err != nil {
		return nil, err
	}
	return &faultyFile{h, f, name}, nil
}

// Mkdir implements durable.FS.
func (f *Faulty) Mkdir(name string) error {
	return f.do("mkdir", name, func() error { return f.FS.Mkdir(name) }, nil)
}

// Rename implements durable.FS.
func (f *Faulty) Rename(from, to string) error {
	return f.do("rename", to, func() error { return f.FS.Rename(from, to) }, nil)
}

// Remove implements durable.FS.
func (f *Faulty) Remove(name string) error {
	return f.do("remove", name, func() error { return f.FS.Remove(name) }, nil)
}

// Lstat implements durable.FS.
func (f *Faulty) Lstat(name string) (fi fs.FileInfo, err error) {
	err = f.do("lstat", name, func() error {
		fi, err = f.FS.Lstat(name)
		return err
	}, nil)
	return fi, err
}

// ReadDir implements durable.FS.
func (f *Faulty) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = f.do("readdir", name, func() error {
		entries, err = f.FS.ReadDir(name)
		return err
	}, nil)
	return entries, err
}

// SyncDir implements durable.FS.
func (f *Faulty) SyncDir(name string) error {
	return f.do("syncdir", name, func() error { return f.FS.SyncDir(name) }, nil)
}

// SyncAll implements durable.FS.
func (f *Faulty) SyncAll() error {
	return f.do("syncall", "", f.FS.SyncAll, nil)
}

// Lock implements durable.FS.
func (f *Faulty) Lock(name string, patience time.Duration) (c io.Closer, err error) {
	err = f.do("lock", name, func() error {
		c, err = f.FS.Lock(name, patience)
		return err
	}, nil)
	if err != nil && c != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, err
}

// Free implements durable.FS.
func (f *Faulty) Free() (size, free int64, err error) {
	err = f.do("free", "", func() error {
		size, free, err = f.FS.Free()
		return err
	}, nil)
	return size, free, err
}

// faultyFile is an open file of a Faulty.
type faultyFile struct {
	durable.File
	fs   *Faulty
	name string
}

func (f *faultyFile) Read(p []byte) (n int, err error) {
	err = f.fs.do("read", f.name, func() error {
		n, err = f.File.Read(p)
		return err
	}, nil)
	return n, err
}

func (f *faultyFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.fs.do("readat", f.name, func() error {
		n, err = f.File.ReadAt(p, off)
		return err
	}, nil)
	return n, err
}

func (f *faultyFile) Write(p []byte) (n int, err error) {
	err = f.fs.do("write", f.name, func() error {
		n, err = f.File.Write(p)
		return err
	}, nil)
	return n, err
}

func (f *faultyFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.do("write", f.name, func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	}, nil)
	return n, err
}

func (f *faultyFile) Seek(offset int64, whence int) (n int64, err error) {
	err = f.fs.do("seek", f.name, func() error {
		n, err = f.File.Seek(offset, whence)
		return err
	}, nil)
	return n, err
}

func (f *faultyFile) Stat() (fi fs.FileInfo, err error) {
	err = f.fs.do("stat", f.name, func() error {
		fi, err = f.File.Stat()
		return err
	}, nil)
	return fi, err
}

func (f *faultyFile) Truncate(size int64) error {
	return f.fs.do("truncate", f.name, func() error { return f.File.Truncate(size) }, nil)
}

func (f *faultyFile) Sync() error {
	return f.fs.do("fsync", f.name, f.File.Sync, func() {
		if h, ok := f.File.(*file); ok {
			h.loseDirty()
		}
	})
}

// Close closes the file whatever happens: a descriptor is gone after close,
// and only its error is left.
func (f *faultyFile) Close() error {
	return f.fs.do("close", f.name, f.File.Close, func() { _ = f.File.Close() })
}
