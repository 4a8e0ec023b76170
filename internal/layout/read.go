package layout

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// maxEntries bounds the files of a tar: each is remembered.
const maxEntries = 1 << 20

// contents are a tar's files, by name.
type contents struct {
	bytes *joined
	files map[string]span
}

// span is where a file lies in a tar.
type span struct{ off, size int64 }

func openTar(paths []string) (source, error) {
	paths, err := allParts(paths)
	if err != nil {
		return nil, err
	}
	all, err := join(paths)
	if err != nil {
		return nil, err
	}
	files, err := scan(io.NewSectionReader(all, 0, all.size()))
	if err != nil {
		return nil, errors.Join(err, all.Close())
	}
	return &contents{all, files}, nil
}

// scan finds the files of a tar. Only plain ones of a layout's names count.
func scan(r *io.SectionReader) (map[string]span, error) {
	files := map[string]span{}
	for t, n := tar.NewReader(r), 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, tarError(r, err)
		}
		if n == maxEntries {
			return nil, fmt.Errorf("a tar of more than %d files", maxEntries)
		}
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || name != indexName && !strings.HasPrefix(name, "blobs/") {
			continue
		}
		off, err := r.Seek(0, io.SeekCurrent) // the reader reads no further than the header
		if err != nil {
			return nil, err
		}
		if sparse(h) || h.Size > r.Size()-off {
			return nil, fmt.Errorf("%s is not all there: the archive is cut short, or a part of it is missing", cut(name))
		}
		files[name] = span{off, h.Size}
	}
}

// sparse tells whether a file does not lie in the tar as it is.
func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// tarError says what the matter may be with what is no tar.
func tarError(r *io.SectionReader, err error) error {
	var magic [4]byte
	_, _ = r.ReadAt(magic[:], 0)
	switch {
	case magic[0] == 0x1f && magic[1] == 0x8b:
		return errors.New("it is compressed: gunzip it first")
	case string(magic[:]) == "\x28\xb5\x2f\xfd":
		return errors.New("it is compressed: unzstd it first")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it is cut short, or a part of it is missing")
	}
	return fmt.Errorf("it is no tar: %w", err)
}

// cut bounds text from outside that is repeated in an error.
func cut(s string) string { return fmt.Sprintf("%q", s[:min(len(s), 200)]) }

func (c *contents) open(name string) (io.ReadCloser, int64, error) {
	at, ok := c.files[name]
	if !ok {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(c.bytes, at.off, at.size)), at.size, nil
}

func (c *contents) size(name string) (int64, error) {
	at, ok := c.files[name]
	if !ok {
		return 0, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return at.size, nil
}

func (c *contents) is(fi fs.FileInfo) bool {
	return slices.ContainsFunc(c.bytes.files, func(f *os.File) bool {
		own, err := f.Stat()
		return err == nil && os.SameFile(own, fi)
	})
}

func (c *contents) Close() error { return c.bytes.Close() }

// joined reads files as if they were one.
type joined struct {
	files  []*os.File
	starts []int64 // of each, and the end of the last
}

func join(paths []string) (*joined, error) {
	j := &joined{starts: []int64{0}}
	for _, p := range paths {
		fi, err := os.Stat(p)
		if err == nil && !fi.Mode().IsRegular() {
			err = fmt.Errorf("%s is no plain file", p)
		}
		if err != nil {
			return nil, errors.Join(err, j.Close())
		}
		f, err := os.Open(p)
		if err != nil {
			return nil, errors.Join(err, j.Close())
		}
		j.files, j.starts = append(j.files, f), append(j.starts, j.size()+fi.Size())
	}
	return j, nil
}

func (j *joined) size() int64 { return j.starts[len(j.starts)-1] }

// ReadAt implements io.ReaderAt.
func (j *joined) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		i := sort.Search(len(j.files), func(i int) bool { return j.starts[i+1] > off })
		if i == len(j.files) {
			return n, io.EOF
		}
		most := min(int64(len(p)-n), j.starts[i+1]-off)
		m, err := j.files[i].ReadAt(p[n:n+int(most)], off-j.starts[i])
		n, off = n+m, off+int64(m)
		if err != nil && (m == 0 || !errors.Is(err, io.EOF)) {
			return n, err
		}
	}
	return n, nil
}

// Close closes the files.
func (j *joined) Close() (err error) {
	for _, f := range j.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// part splits the name of a part.
func part(p string) (whole, number string, ok bool) {
	m := regexp.MustCompile(`^(.+)\.(\d{3})$`).FindStringSubmatch(p)
	if m == nil {
		return p, "", false
	}
	return m[1], m[2], true
}

// Sets puts paths that are parts of one archive together, in the order in which the first of
// each comes.
func Sets(paths []string) [][]string {
	var sets [][]string
	at := map[string]int{}
	for _, p := range paths {
		whole, _, isPart := part(path.Base(p))
		if i, ok := at[whole]; ok && isPart {
			sets[i] = append(sets[i], p)
			continue
		}
		if isPart {
			at[whole] = len(sets)
		}
		sets = append(sets, []string{p})
	}
	return sets
}

// allParts gives an archive's files in order: of the first part alone, those beside it as well.
func allParts(paths []string) ([]string, error) {
	whole, number, isPart := part(paths[0])
	if !isPart {
		if _, err := os.Lstat(paths[0]); errors.Is(err, fs.ErrNotExist) && exists(partName(paths[0], 0)) {
			return allParts([]string{partName(paths[0], 0)})
		}
		return paths, nil
	}
	if len(paths) == 1 && number == "000" {
		for n := 1; exists(partName(whole, n)); n++ {
			paths = append(paths, partName(whole, n))
		}
	}
	paths = slices.Clone(paths)
	byNumber := func(p string) string { _, n, _ := part(p); return n }
	slices.SortFunc(paths, func(a, b string) int { return strings.Compare(byNumber(a), byNumber(b)) })
	for n, p := range paths {
		if want := fmt.Sprintf("%03d", n); byNumber(p) != want {
			return nil, fmt.Errorf("part .%s is missing, or is there twice", want)
		}
	}
	return paths, nil
}

func exists(p string) bool {
	_, err := os.Lstat(p)
	return err == nil
}
