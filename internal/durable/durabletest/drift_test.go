package durabletest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"cistern/internal/durable"
)

// TestDrift does the same random things to real files and to those in memory,
// and expects the same of both.
func TestDrift(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		d, err := durable.OpenDir(dir)
		if err != nil {
			rt.Fatal(err)
		}
		pair := [2]*user{{FS: d}, {FS: New(Options{})}}
		defer func() {
			for _, u := range pair {
				for _, h := range u.open {
					_ = h.Close()
				}
				_ = u.Close()
			}
		}()
		name := rapid.SampledFrom([]string{"a", "b", "x", "a/x", "a/y", "a/b", "b/x", "b/a", "a/b/x", "a/b/y"})
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			s := step{
				do:   rapid.SampledFrom(verbs).Draw(rt, "do"),
				name: name.Draw(rt, "name"), to: name.Draw(rt, "to"),
				which: rapid.IntRange(0, 3).Draw(rt, "which"), n: rapid.IntRange(0, 3*blockSize).Draw(rt, "n"),
			}
			if real, memory := pair[0].take(s), pair[1].take(s); real != memory {
				rt.Fatalf("%+v:\nreal   %s\nmemory %s", s, real, memory)
			}
		}
	})
}

var verbs = []string{"mkdir", "mkdir", "create", "create", "open", "append", "truncating", "write", "write", "writeat", "writeat", "read", "readat", "seek", "truncate", "sync", "close", "rename", "rename", "remove", "lstat", "readdir", "syncdir"}

// step is one thing to do.
type step struct {
	do, name, to string
	which, n     int
}

// user does steps and says what came of them.
type user struct {
	durable.FS
	open []durable.File
}

func (u *user) take(s step) string {
	switch s.do {
	case "create":
		return u.opened(s.name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	case "open":
		return u.opened(s.name, os.O_RDONLY)
	case "append":
		return u.opened(s.name, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	case "truncating":
		return u.opened(s.name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	case "mkdir":
		return said(u.Mkdir(s.name))
	case "rename":
		return u.move(s.name, s.to)
	case "remove":
		return said(u.Remove(s.name))
	case "syncdir":
		return u.sync(s.name)
	case "lstat":
		fi, err := u.Lstat(s.name)
		return said(err) + " " + described(fi)
	case "readdir":
		return u.list(s.name)
	}
	if s.which >= len(u.open) {
		return "no such file open"
	}
	return u.toFile(u.open[s.which], s)
}

// move renames. Why that fails is said in several ways, of which nobody asks for
// one; a folder renamed to itself is fine or not.
func (u *user) move(from, to string) string {
	if from == to || u.Rename(from, to) == nil {
		return "ok"
	}
	return "failed"
}

// sync makes names durable; that of a file may be refused.
func (u *user) sync(name string) string {
	if fi, err := u.Lstat(name); err == nil && !fi.IsDir() {
		return "no folder"
	}
	return said(u.SyncDir(name))
}

func (u *user) opened(name string, flag int) string {
	h, err := u.OpenFile(name, flag, 0o600)
	if err != nil {
		return said(err)
	}
	if fi, err := h.Stat(); err != nil || fi.IsDir() {
		return said(err) + said(h.Sync()) + said(h.Close()) // nobody seeks in a folder
	}
	if u.open = append(u.open, h); len(u.open) > 4 {
		err = u.open[0].Close()
		u.open = u.open[1:]
	}
	return said(err)
}

func (u *user) list(name string) string {
	entries, err := u.ReadDir(name)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name()+e.Type().String())
	}
	slices.Sort(all)
	return said(err) + " " + strings.Join(all, " ")
}

func (u *user) toFile(h durable.File, s step) string {
	switch s.do {
	case "write":
		n, err := h.Write([]byte(strings.Repeat(string(rune('a'+s.n%26)), s.n)))
		return fmt.Sprint(n, said(err))
	case "writeat":
		n, err := h.WriteAt([]byte(strings.Repeat(string(rune('a'+s.n%26)), 1000)), int64(s.n))
		return fmt.Sprint(n, said(err))
	case "read":
		buf := make([]byte, s.n)
		n, err := io.ReadFull(h, buf)
		return fmt.Sprintf("%d %s %q", n, said(err), buf[:n])
	case "readat":
		buf := make([]byte, 100)
		n, err := h.ReadAt(buf, int64(s.n))
		return fmt.Sprintf("%d %s %q", n, said(err), buf[:n])
	case "seek":
		off, err := h.Seek(int64(s.n), s.which%3)
		return fmt.Sprint(off, said(err))
	case "truncate":
		err := h.Truncate(int64(s.n))
		fi, serr := h.Stat()
		return said(err) + said(serr) + described(fi)
	case "sync":
		return said(h.Sync())
	}
	u.open = slices.DeleteFunc(u.open, func(o durable.File) bool { return o == h })
	return said(h.Close())
}

// said is an error without the names in it.
func said(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// described is a file's description; what a folder takes is each file system's
// own affair.
func described(fi fs.FileInfo) string {
	switch {
	case fi == nil:
		return "nothing"
	case fi.IsDir():
		return fi.Mode().String()
	}
	return fmt.Sprint(fi.Mode(), fi.Size())
}
