package crash_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pieceSize is the unit in which the daemon remembers what a fill has.
const pieceSize = mib

// The states of a piece in the file beside a fill.
const (
	pieceLanded = 1 + iota // written
	pieceSynced            // on stable storage
	pieceBegun             // as many of its bytes as stands in place of its sum, or whole and without a sum
)

// A mark is what the file beside a fill says of a piece.
type mark struct {
	sum   uint32
	state byte
}

// A remnant is what lies of a blob in a cache directory.
type remnant struct {
	x     *thing
	file  string // what holds its bytes; "": nothing does
	blob  bool   // in blobs/
	len   int64  // of the file
	marks []mark // by pieces; nil: it has no piece state
}

func piecesOf(x *thing) int { return int((x.size() + pieceSize - 1) / pieceSize) }

// bounds is what bytes a piece is.
func (x *thing) bounds(i int) (off, end int64) {
	off = int64(i) * pieceSize
	return off, min(off+pieceSize, x.size())
}

// sidePath is where the piece state of a blob's fill lies.
func sidePath(dir string, x *thing) string { return inTree(dir, "fills", x) + ".pieces" }

func inTree(dir, tree string, x *thing) string {
	hex := strings.TrimPrefix(x.digest, "sha256:")
	return filepath.Join(dir, tree, "sha256", hex[:2], hex)
}

// remains looks at what lies of a blob; the daemon may be at work there.
func remains(t *testing.T, dir string, x *thing) *remnant {
	t.Helper()
	r := &remnant{x: x}
	for _, tree := range []string{"fills", "blobs"} {
		fi, err := os.Stat(inTree(dir, tree, x))
		if err == nil {
			r.file, r.blob, r.len = inTree(dir, tree, x), tree == "blobs", fi.Size()
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(sidePath(dir, x))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err == nil {
		r.marks = decodeMarks(b, x)
	}
	return r
}

// decodeMarks reads the file beside a fill (cache/blob/pieces.go has its layout). What is torn counts as missing.
func decodeMarks(b []byte, x *thing) []mark {
	marks := make([]mark, piecesOf(x))
	const header, entry = 24, 8
	if len(b) < header || string(b[:8]) != "CFILL\x00\x00\x01" || binary.LittleEndian.Uint32(b[16:]) != castagnoli(b[:16]) ||
		binary.LittleEndian.Uint64(b[8:]) != uint64(x.size()) {
		return marks
	}
	for i := range marks {
		if len(b) < header+(i+1)*entry {
			break
		}
		e := b[header+i*entry:][:entry]
		check := castagnoli(append(binary.LittleEndian.AppendUint64(nil, uint64(i)), e[:5]...))
		if check&0xffffff == uint32(e[5])|uint32(e[6])<<8|uint32(e[7])<<16 {
			marks[i] = mark{binary.LittleEndian.Uint32(e), e[4]}
		}
	}
	return marks
}

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// has is how many of the first bytes of a piece are there for a daemon of the same boot to go on with, or, after a power
// cut, for one of another: of that only what is noted as synced counts.
func (r *remnant) has(i int, cut bool) int64 {
	off, end := r.x.bounds(i)
	switch {
	case r.blob:
		return end - off
	case r.marks == nil && cut:
		return 0
	case r.marks == nil:
		return max(0, min(end, r.len)-off)
	}
	switch m := r.marks[i]; {
	case m.state == pieceSynced, m.state == pieceLanded && !cut && end <= r.len:
		return end - off
	case m.state == pieceBegun && !cut && off+int64(m.sum) <= min(end, r.len):
		return int64(m.sum)
	}
	return 0
}

// bytes is how much that is.
func (r *remnant) bytes(cut bool) (n int64) {
	for i := range piecesOf(r.x) {
		n += r.has(i, cut)
	}
	return n
}

// ended tells whether the fill of it has come to its end.
func (r *remnant) ended() bool { return r.blob || r.marks == nil && r.len == r.x.size() }

// in are the pieces that are noted as being in a state.
func (r *remnant) in(state byte) (is []int) {
	for i, m := range r.marks {
		if m.state == state {
			is = append(is, i)
		}
	}
	return is
}

// sparse tells whether there is something behind a hole.
func (r *remnant) sparse() bool {
	hole := false
	for i := range piecesOf(r.x) {
		n := r.has(i, false)
		if hole && n > 0 {
			return true
		}
		hole = hole || n < pieceSize
	}
	return false
}

// right compares what can be gone on with, byte for byte, and with its sums. What is noted as synced must be there.
func (r *remnant) right(cut bool) error {
	if r.bytes(cut) == 0 {
		return nil
	}
	f, err := os.Open(r.file)
	if err != nil {
		return err
	}
	defer f.Close()
	for i := range piecesOf(r.x) {
		n := r.has(i, cut)
		off, end := r.x.bounds(i)
		got := make([]byte, n)
		if _, err := io.ReadFull(io.NewSectionReader(f, off, n), got); err != nil && n > 0 {
			return fmt.Errorf("piece %d: %w", i, err)
		}
		if want := r.x.data[off : off+n]; !bytes.Equal(got, want) {
			return fmt.Errorf("%w: %s, where piece %d is said to be there", errWrong, describe(got, want, off), i)
		}
		if r.marks != nil && n == end-off && r.marks[i].state != pieceBegun && r.marks[i].sum != castagnoli(got) {
			return fmt.Errorf("%w: the sum of piece %d is not that of its bytes", errWrong, i)
		}
	}
	return nil
}

// unnoted is how many bytes of the blob lie there that nobody could go on with, in blocks of a page.
func (r *remnant) unnoted() (n int64, err error) {
	if r.marks == nil || r.file == "" {
		return 0, nil // the file's length says it
	}
	b, err := os.ReadFile(r.file)
	if err != nil {
		return 0, err
	}
	for i := range piecesOf(r.x) {
		off, end := r.x.bounds(i)
		for at := off + r.has(i, false); at < end; at += 4 * kib {
			if to := min(at+4*kib, end); to <= int64(len(b)) && bytes.Equal(b[at:to], r.x.data[at:to]) {
				n += to - at
			}
		}
	}
	return n, nil
}
