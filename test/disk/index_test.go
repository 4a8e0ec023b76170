package disk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// edit changes the content of a file.
func edit(change func(data []byte) []byte) func(string) error {
	return func(file string) error {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return os.WriteFile(file, change(data), 0o600)
	}
}

// TestIndexAtStart is FAULTS row 36: whatever has become of the index, the daemon starts and serves what is cached at once,
// upstream or no upstream, builds a new index, and has everything in it at the start after that. Tags may have to be asked for
// once more.
func TestIndexAtStart(t *testing.T) {
	page := os.Getpagesize()
	for _, c := range []struct {
		name string
		do   func(file string) error
	}{
		{"missing", os.Remove},
		{"empty", func(f string) error { return os.Truncate(f, 0) }},
		{"cut after a page", func(f string) error { return os.Truncate(f, int64(page)) }},
		{"cut in the middle", func(f string) error { return os.Truncate(f, int64(7*page+100)) }},
		{"garbage", edit(func(d []byte) []byte { return pool()[:256*kib] })},
		{"garbage in its place", edit(func(d []byte) []byte { copy(d[2*page:], pool()[:12*page]); return d })},
		{"zeros", edit(func(d []byte) []byte { clear(d); return d })},
		{"another program's file", edit(func([]byte) []byte { return []byte("this is a letter\n") })},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{})
			layers := []*blob{r.blob(300_000), r.blob(20_000), r.blob(3 * mib)}
			tagged := r.image("one", layers...)
			r.recorded(append(layers, tagged)...)
			r.stop()
			if err := c.do(r.in("index.db")); err != nil {
				t.Fatal(err)
			}
			r.off.Store(true)
			r.restart()
			r.hits(layers...)
			r.off.Store(false)
			fresh := r.blob(mib)
			r.pull(tagged, fresh)
			r.metric("cistern_rebuild_running", equal(0))
			r.isReady()
			r.keeps(fresh)
			r.recorded(fresh)
			for _, b := range layers {
				if r.asked(b) != 1 {
					t.Errorf("%d bytes were fetched %d times", len(b.data), r.asked(b))
				}
			}
			r.accounts()
			r.daemon.Kill()
			r.restart()
			r.off.Store(true)
			r.hits(append(layers, tagged, fresh)...)
		})
	}
}

// TestIndexIsNoFile is FAULTS row 36 for what nobody but a person puts there: nothing is followed or taken away, all is streamed, and
// the daemon says why until somebody looks.
func TestIndexIsNoFile(t *testing.T) {
	for _, c := range []struct {
		name, word string
		do         func(file string) error
	}{
		{"a link to itself, moved", "symbolic links", func(f string) error {
			return errors.Join(os.Rename(f, f+"-elsewhere"), os.Symlink(f+"-elsewhere", f))
		}},
		{"a folder", "is a directory", func(f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o700)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{})
			b := r.blob(300_000)
			r.recorded(b)
			r.stop()
			file := r.in("index.db")
			if err := c.do(file); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(file)
			if err != nil {
				t.Fatal(err)
			}
			r.restart()
			r.isNot(c.word)
			r.says("cannot be used", c.word)
			r.misses(b, r.blob(2*mib), r.image("one", b))
			if after, err := os.Lstat(file); err != nil || after.Mode() != before.Mode() {
				t.Errorf("it was %s and is %v (%v)", before.Mode(), after, err)
			}
		})
	}
}

// newer makes an index say that a later version wrote it.
func newer(data []byte) []byte {
	entry := func(version uint32) []byte { // key, value and checksum, as they lie in a page
		e := binary.BigEndian.AppendUint32([]byte("version"), version)
		return binary.BigEndian.AppendUint32(e, crc32.Checksum(e, crc32.MakeTable(crc32.Castagnoli)))
	}
	return bytes.ReplaceAll(data, entry(1), entry(2))
}

// TestNewer is FAULTS row 36 for an index of a later version, and row 50 for a layout of one: the daemon does not start, says
// what to do, and leaves everything as it is.
func TestNewer(t *testing.T) {
	for _, c := range []struct {
		name, file string
		change     func([]byte) []byte
		words      []string
	}{
		{"index", "index.db", newer, []string{"version 2", "run the newer program"}},
		{"layout", "VERSION", func([]byte) []byte { return []byte("2\n") }, []string{"layout 2", "run the newer program"}},
		{"no layout", "VERSION", func([]byte) []byte { return []byte("two\n") }, []string{"VERSION", "if this is a cache directory"}},
		{"empty layout", "VERSION", func([]byte) []byte { return nil }, []string{"VERSION", "if this is a cache directory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{})
			b := r.blob(300_000)
			r.recorded(b, r.image("one", b))
			r.stop()
			file := r.in(c.file)
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(c.change(bytes.Clone(good)), good) {
				t.Fatal("nothing to change")
			}
			if err := edit(c.change)(file); err != nil {
				t.Fatal(err)
			}
			before := tree(t, r.dir)
			refused(t, settings{dir: r.dir, origin: r.origin}, c.words...)
			after := tree(t, r.dir)
			for name, was := range before {
				if after[name] != was {
					t.Errorf("%s was %s and is %s", name, was, after[name])
				}
			}
			for name := range after {
				if _, was := before[name]; !was {
					t.Errorf("%s was made", name)
				}
			}
			if err := os.WriteFile(file, good, 0o600); err != nil {
				t.Fatal(err)
			}
			r.restart()
			r.off.Store(true)
			r.hits(b)
		})
	}
}

// tree describes all that lies in a directory, but for the lock, into which any process that looks writes its number, and the mark of
// a clean stop, which is taken away and put back.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() == "cistern.lock" || e.Name() == "clean" || path == dir {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		var sum uint32
		if fi.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = crc32.ChecksumIEEE(data)
		}
		all[path] = fmt.Sprint(fi.Mode(), fi.Size(), fi.ModTime(), sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
