package durabletest

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"

	"cistern/internal/durable"
)

func TestFaultyKinds(t *testing.T) {
	t.Parallel()
	f := &Faulty{FS: New(Options{})}
	h := create(t, f, "x", "12")
	_, rerr := h.Read(nil)
	_, aerr := h.ReadAt(make([]byte, 1), 0)
	_, serr := h.Seek(0, io.SeekStart)
	_, ierr := h.Stat()
	must(t, aerr, serr, ierr, h.Truncate(1), h.Sync(), h.Close(), f.Rename("x", "y"), f.Mkdir("a"), f.Remove("a"), f.SyncDir("."))
	if rerr != nil && rerr != io.EOF {
		t.Error(rerr)
	}
	_, lerr := f.Lstat("y")
	_, derr := f.ReadDir(".")
	_, _, ferr := f.Free()
	c, err := f.Lock("lock", 0)
	must(t, lerr, derr, ferr, err, c.Close())
	o, err := f.OpenFile("y", os.O_RDONLY, 0)
	must(t, err, o.Close(), f.FS.Close())
	want := []string{
		"create x", "write x", "read x", "readat x", "seek x", "stat x", "truncate x", "fsync x", "close x", "rename y", "mkdir a",
		"remove a", "syncdir .", "lstat y", "readdir .", "free ", "lock lock", "open y", "close y",
	}
	trace := f.Trace()
	if len(trace) != len(want) || f.Count() != len(want) {
		t.Fatalf("%v", trace)
	}
	for i, op := range trace {
		if op.String() != want[i] || op.N != i+1 {
			t.Errorf("%d is %v, want %q", op.N, op, want[i])
		}
	}
}

// Undone, done all the same, thrown, stalled, and the power cut after it.
func TestFaultyWays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what  string
		fault Fault
		err   error
		done  bool
	}{
		{"undone", Fault{Err: syscall.EIO}, syscall.EIO, false},
		{"done", Fault{Err: syscall.EIO, Done: true}, syscall.EIO, true},
		{"nothing", Fault{}, nil, true},
	} {
		memory := New(Options{})
		f := &Faulty{FS: memory, Choose: Nth(1, c.fault)}
		is(t, c.what, f.Mkdir("a"), c.err)
		if _, err := memory.Lstat("a"); (err == nil) != c.done {
			t.Errorf("%s: %v", c.what, err)
		}
		must(t, f.Mkdir("b"))
	}

	memory := New(Options{})
	f := &Faulty{FS: memory, Choose: Nth(1, Fault{Panic: "thrown"})}
	func() {
		defer func() {
			if p := recover(); p != "thrown" {
				t.Errorf("thrown: %v", p)
			}
		}()
		_ = f.Mkdir("a")
	}()

	var after *FS
	f.Choose = Nth(2, Fault{After: func() { after = memory.Crash(seeded(1)) }})
	is(t, "the operation before the cut", f.Mkdir("a"), nil)
	is(t, "the one after", f.Mkdir("b"), ErrOff)
	must(t, after.Mkdir("b"))

	go1, begun, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	f = &Faulty{FS: New(Options{}), Choose: func(op Op) *Fault {
		if op.Kind != "mkdir" {
			return nil
		}
		close(begun)
		return &Fault{Stall: go1}
	}}
	go func() { ended <- f.Mkdir("a") }()
	<-begun
	if _, err := f.FS.Lstat("a"); err == nil {
		t.Error("it did not stall")
	}
	put(t, f, "others go on", "x")
	close(go1)
	must(t, <-ended)
}

// What an error hides is closed: nobody else could.
func TestFaultyLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	memory := New(Options{})
	f := &Faulty{FS: memory, Choose: func(op Op) *Fault {
		if op.Kind == "create" || op.Kind == "lock" {
			return &Fault{Err: syscall.EIO, Done: true}
		}
		return nil
	}}
	if _, err := f.OpenFile("x", os.O_RDWR|os.O_CREATE, 0o600); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	if _, err := f.Lock("lock", 0); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	lock, err := memory.Lock("lock", 0)
	must(t, err, lock.Close())
	memory.d.each(memory.d.root, func(n *node) {
		if n.opens > 0 {
			t.Errorf("inode %d is open", n.ino)
		}
	})
	h := create(t, memory, "y", "12")
	wrapped := &faultyFile{h, &Faulty{FS: memory, Choose: Nth(1, Fault{Err: syscall.EIO})}, "y"}
	is(t, "close", wrapped.Close(), syscall.EIO)
	is(t, "a descriptor is gone after close", h.Close(), os.ErrClosed)
}

var _ durable.File = (*faultyFile)(nil) // all of it is passed on
