package blob

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"sync"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// PieceSize is the unit in which it is remembered what a fill has, in bytes.
const PieceSize = 1 << 20

// Range is bytes [Off, End) of a blob.
type Range struct{ Off, End int64 }

// pieces is what a fill of known size has of its pieces, for whoever goes on with
// it: a checksum each, since no digest covers a part, and whether it is on stable
// storage. Once a fill is sparse, or synced while it grows, this is in a file
// beside it as well. Safe for concurrent use.
type pieces struct {
	size int64 // of the blob

	mu      sync.Mutex // guards all below
	all     []piece
	forming map[int]*forming
	side    durable.File // nil: not in a file
}

// piece is one of them.
type piece struct {
	sum   uint32 // CRC-32C, or of one that is begun how many of its first bytes there are
	state pieceState
}

type pieceState uint8

const (
	missing pieceState = iota
	landed             // written
	synced             // on stable storage
	begun              // not whole, or without a sum
)

// forming is a piece that is being written. Its checksum goes along as long as
// its bytes come in order, and did from the start.
type forming struct {
	got   int64 // bytes
	sum   uint32
	unsum bool // without a sum: it is read again for that before it is synced
	holes bool // not in order
}

func newPieces(size int64) *pieces {
	return &pieces{size: size, all: make([]piece, (size+PieceSize-1)/PieceSize), forming: map[int]*forming{}}
}

// span is what bytes a piece is.
func (ps *pieces) span(i int) (off, end int64) {
	off = int64(i) * PieceSize
	return off, min(off+PieceSize, ps.size)
}

// wrote notes bytes written at off. They are written once only, and those of one
// piece by one goroutine at a time.
func (ps *pieces) wrote(p []byte, at int64) error {
	for len(p) > 0 && at < ps.size {
		i := int(at / PieceSize)
		off, end := ps.span(i)
		part := p[:min(int64(len(p)), end-at)]
		f := ps.form(i, at-off)
		if !f.unsum { // not under the lock: others have pieces of their own
			f.sum = crc32.Update(f.sum, castagnoli(), part)
		}
		if err := ps.add(i, f, int64(len(part))); err != nil {
			return err
		}
		p, at = p[len(part):], at+int64(len(part))
	}
	return nil
}

// form gives the state of a piece of which bytes are written at an offset within it.
func (ps *pieces) form(i int, at int64) *forming {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	f := ps.forming[i]
	if f == nil {
		f = &forming{}
		ps.forming[i] = f
	}
	f.holes = f.holes || at != f.got
	f.unsum = f.unsum || f.holes
	return f
}

// add notes n more bytes of a piece.
func (ps *pieces) add(i int, f *forming, n int64) error {
	off, end := ps.span(i)
	ps.mu.Lock()
	defer ps.mu.Unlock()
	f.got += n
	switch {
	case f.got == end-off && !f.unsum:
		ps.all[i] = piece{f.sum, landed}
	case f.got == end-off || !f.holes:
		ps.all[i] = piece{uint32(f.got), begun}
	default:
		return nil
	}
	if f.got == end-off {
		delete(ps.forming, i)
	}
	return ps.write(i)
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// read gives the checksum of a piece as it is in the file.
func (ps *pieces) read(i int, file io.ReaderAt) (uint32, error) {
	off, end := ps.span(i)
	h := crc32.New(castagnoli())
	if n, err := io.Copy(h, io.NewSectionReader(file, off, end-off)); err != nil || n != end-off {
		return 0, errors.Join(err, fmt.Errorf("piece %d: %d bytes of %d", i, n, end-off))
	}
	return h.Sum32(), nil
}

// ranges gives what is there, neighbours joined: of what is begun its beginning.
func (ps *pieces) ranges() (rs []Range) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for i, p := range ps.all {
		off, end := ps.span(i)
		if p.state == begun {
			end = min(end, off+int64(p.sum))
		}
		switch {
		case p.state == missing:
		case len(rs) > 0 && rs[len(rs)-1].End == off:
			rs[len(rs)-1].End = end
		default:
			rs = append(rs, Range{off, end})
		}
	}
	return rs
}

// bytes is how many of the blob are there.
func (ps *pieces) bytes() (n int64) {
	for _, r := range ps.ranges() {
		n += r.End - r.Off
	}
	return n
}

// The file beside a fill is a header and eight bytes for each piece, each with a
// checksum of its own: what a power cut has torn counts as missing.
//
//	magic "CFILL\x00\x00\x01", size of the blob (8), CRC-32C of these (4), zeros (4)
//	CRC-32C of the piece (4), state (1), the low three bytes of the CRC-32C of its number and these five
const (
	sideSuffix = ".pieces"
	sideMagic  = "CFILL\x00\x00\x01"
	sideHeader = 24
	sideEntry  = 8
)

// maxSideSize bounds the size of a blob that a header is believed: a TiB, whose
// pieces take 8 MiB.
const maxSideSize = 1 << 40

func encodeHeader(size int64) []byte {
	b := make([]byte, sideHeader)
	copy(b, sideMagic)
	binary.LittleEndian.PutUint64(b[8:], uint64(size))
	binary.LittleEndian.PutUint32(b[16:], crc32.Checksum(b[:16], castagnoli()))
	return b
}

func encodePiece(i int, p piece) []byte {
	b := binary.LittleEndian.AppendUint32(nil, p.sum)
	b = append(b, byte(p.state))
	check := binary.LittleEndian.AppendUint32(nil, checkPiece(i, b))
	return append(b, check[:3]...)
}

func checkPiece(i int, b []byte) uint32 {
	number := binary.LittleEndian.AppendUint64(nil, uint64(i))
	return crc32.Update(crc32.Checksum(number, castagnoli()), castagnoli(), b[:5])
}

// errNoPieces is for a file that says nothing of pieces that can be believed.
var errNoPieces = errors.New("not the piece state of a fill")

// decodePieces reads such a file. What is torn in it counts as missing; of a file
// that is none it gives errNoPieces.
func decodePieces(b []byte) (*pieces, error) {
	if len(b) < sideHeader || string(b[:8]) != sideMagic || binary.LittleEndian.Uint32(b[16:]) != crc32.Checksum(b[:16], castagnoli()) {
		return nil, errNoPieces
	}
	size := binary.LittleEndian.Uint64(b[8:])
	if size > maxSideSize {
		return nil, fmt.Errorf("%w: of a blob of %d bytes", errNoPieces, size)
	}
	ps := newPieces(int64(size))
	b = b[sideHeader:]
	for i := range ps.all {
		if len(b) < sideEntry {
			break
		}
		p := piece{binary.LittleEndian.Uint32(b), pieceState(b[4])}
		check := binary.LittleEndian.AppendUint32(nil, checkPiece(i, b))
		if string(check[:3]) == string(b[5:8]) && p.state > missing && p.state <= begun {
			ps.all[i] = p
		}
		b = b[sideEntry:]
	}
	return ps, nil
}

// write brings the file up to date with a piece; mu is held.
func (ps *pieces) write(i int) error {
	if ps.side == nil {
		return nil
	}
	_, err := ps.side.WriteAt(encodePiece(i, ps.all[i]), sideHeader+int64(i)*sideEntry)
	return err
}

// sideSize is what the file takes for a blob of so many bytes.
func sideSize(size int64) int64 {
	return durable.RoundUp(sideHeader + (size+PieceSize-1)/PieceSize*sideEntry)
}

// sidePlace is where the piece state of a digest's fill lies.
func sidePlace(d oci.Digest) string { return place(fillsDir, d) + sideSuffix }

// openSide makes the file, with all that is known. What lay there is overwritten.
func (ps *pieces) openSide(s *Store, d oci.Digest) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.side != nil {
		return nil
	}
	f, err := s.fs.OpenFile(sidePlace(d), os.O_RDWR|os.O_CREATE|os.O_TRUNC, privateMode)
	if err != nil {
		return err
	}
	b := encodeHeader(ps.size)
	for i, p := range ps.all {
		b = append(b, encodePiece(i, p)...)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	ps.side = f
	return nil
}

// loadPieces reads the piece state of a fill that was left; nil if there is none
// that can be believed.
func (s *Store) loadPieces(d oci.Digest) (*pieces, error) {
	f, err := s.fs.OpenFile(sidePlace(d), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) || foreign(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, sideHeader+maxSideSize/PieceSize*sideEntry))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	ps, err := decodePieces(b)
	if errors.Is(err, errNoPieces) {
		return nil, nil
	}
	return ps, err
}

// syncable gives the pieces that are whole and not synced. Those without a sum are
// read for it first.
func (ps *pieces) syncable(file io.ReaderAt) ([]int, error) {
	is, unsummed := ps.whole()
	for _, i := range unsummed {
		sum, err := ps.read(i, file)
		if err == nil {
			err = ps.set(i, func(p *piece) { *p = piece{sum, landed} })
		}
		if err != nil {
			return nil, err
		}
	}
	return append(is, unsummed...), nil
}

// whole gives the pieces that have landed, and those that have no sum yet.
func (ps *pieces) whole() (summed, unsummed []int) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for i, p := range ps.all {
		off, end := ps.span(i)
		switch {
		case p.state == landed:
			summed = append(summed, i)
		case p.state == begun && int64(p.sum) == end-off:
			unsummed = append(unsummed, i)
		}
	}
	return summed, unsummed
}

// markSynced notes, durably, that pieces are on stable storage. Whoever writes others
// does not wait for the disk.
func (ps *pieces) markSynced(is []int) error {
	for _, i := range is {
		if err := ps.set(i, func(p *piece) { p.state = synced }); err != nil {
			return err
		}
	}
	return ps.side.Sync()
}

// set changes a piece.
func (ps *pieces) set(i int, change func(*piece)) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	change(&ps.all[i])
	return ps.write(i)
}

// close closes the file, if there is one.
func (ps *pieces) close() error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.side == nil {
		return nil
	}
	err := ps.side.Close()
	ps.side = nil
	return err
}
