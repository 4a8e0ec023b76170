package durabletest

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cistern/internal/durable"
	"cistern/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// real is a durable.Dir in which a test can lay things in the way.
type real struct {
	*durable.Dir
	path string
}

func newReal(t testing.TB) *real {
	t.Helper()
	path := t.TempDir()
	d, err := durable.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	})
	return &real{d, path}
}

// Plant is that of FS.
func (r *real) Plant(name string, mode fs.FileMode) error {
	if mode == fs.ModeSymlink {
		return os.Symlink("nowhere", filepath.Join(r.path, name))
	}
	return unix.Mkfifo(filepath.Join(r.path, name), 0o600)
}

// planter is what the conformance test is about.
type planter interface {
	durable.FS
	Plant(name string, mode fs.FileMode) error
}

// seeded gives a source of chance.
func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// must fails the test for an error.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// create opens a new file to write to.
func create(t testing.TB, f durable.FS, name, text string) durable.File {
	t.Helper()
	h, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = io.WriteString(h, text)
	}
	must(t, err)
	return h
}

// put makes a file.
func put(t testing.TB, f durable.FS, name, text string) {
	t.Helper()
	must(t, create(t, f, name, text).Close())
}

// get reads a file; what is wrong is said instead.
func get(f durable.FS, name string) string {
	h, err := f.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return "(" + cause(err).Error() + ")"
	}
	defer h.Close()
	data, err := io.ReadAll(h)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(data)
}

func blocks(letters string) string {
	var b strings.Builder
	for _, c := range letters {
		b.WriteString(strings.Repeat(string(c), blockSize))
	}
	return b.String()
}

// letters undoes blocks: 0 is a block of zeros.
func letters(data string) string {
	var b strings.Builder
	for len(data) > 0 {
		n := min(len(data), blockSize)
		c := data[0]
		if strings.Trim(data[:n], string(c)) != "" {
			c = '?' // a block of two minds
		}
		if c == 0 {
			c = '0'
		}
		b.WriteByte(c)
		data = data[n:]
	}
	return b.String()
}
