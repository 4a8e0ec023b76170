package blob

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// big is a blob of three whole pieces and a short one.
func big() (oci.Digest, []byte) {
	data := make([]byte, 3*PieceSize+12345)
	rng := rand.New(rand.NewPCG(7, 7))
	for i := 0; i < len(data); i += 509 {
		data[i] = byte(rng.Uint32())
	}
	return oci.FromBytes(data), data
}

// sparseLife is a fill that is written out of order, stopped in every way and
// gone on with.
type sparseLife struct {
	*testing.T
	rng    *rand.Rand
	disk   *durabletest.FS
	boot   int
	s      *Store
	in     *Ingest
	d      oci.Digest
	data   []byte
	there  []bool // by byte written since the last stop, or believed then
	synced []int  // pieces that are on stable storage
	root   int64  // see world
}

// FAULTS rows 37 and 45: what a fill has of its pieces survives a stop and a kill
// whole, and a power cut as far as it was synced; nothing else is believed.
func TestSparseFills(t *testing.T) {
	t.Parallel()
	d, data := big()
	for seed := range uint64(durabletest.Times(durabletest.Either(20, 3))) { // each of megabytes
		rng := rand.New(rand.NewPCG(seed, durabletest.Seed(0)))
		l := &sparseLife{T: t, rng: rng, disk: durabletest.New(durabletest.Options{}), d: d, data: data}
		l.start()
		for range 1 + rng.IntN(4) {
			l.write(rng.IntN(13))
			switch rng.IntN(4) {
			case 0:
				l.keep()
				l.resume(landed)
			case 1:
				l.disk = l.disk.Kill()
				l.start()
				l.resume(landed)
			case 2:
				l.keep()
				if err := l.s.Close(); err != nil {
					t.Fatal(err)
				}
				l.disk = l.disk.Kill() // the next process's view
				l.start()
				l.resume(landed)
			default:
				l.disk = l.disk.Crash(rand.New(rand.NewPCG(rng.Uint64(), 1)))
				l.boot++
				l.start()
				l.resume(synced)
			}
		}
		l.finish()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func (l *sparseLife) start() {
	s, err := open(Options{Dir: "memory", FS: l.disk, Limit: 1 << 30}, fmt.Sprint("boot-", l.boot))
	if err != nil {
		l.Fatal(err)
	}
	l.root = l.besides()
	if !s.SameBoot() {
		for d := range s.Fills() {
			if left, err := s.KeepSynced(d); err != nil {
				l.Fatal(err)
			} else if !left {
				if err := s.DropKept(d); err != nil {
					l.Fatal(err)
				}
			}
		}
	}
	if err := s.Settle(); err != nil {
		l.Fatal(err)
	}
	l.s, l.in = s, nil
}

// begin goes on with the fill, or starts it.
func (l *sparseLife) begin() {
	if l.in != nil {
		return
	}
	r, err := l.s.Reserve(context.Background(), 0)
	if err != nil {
		l.Fatal(err)
	}
	if l.in, err = l.s.Resume(l.d, r); err != nil {
		l.Fatal(err)
	}
	if size := l.in.Size(); size != -1 && size != int64(len(l.data)) {
		l.Fatalf("of %d bytes", size)
	}
	if err := l.in.Reach(context.Background(), int64(len(l.data))); err != nil {
		l.Fatal(err)
	}
	l.in.Track(int64(len(l.data)))
	if err := l.in.Sparse(context.Background()); err != nil {
		l.Fatal(err)
	}
	l.there = make([]bool, len(l.data))
	for _, r := range l.in.Ranges() {
		for i := r.Off; i < r.End; i++ {
			l.there[i] = true
		}
	}
}

// gap is a part of the blob that is not there, of at most n bytes.
func (l *sparseLife) gap(from, n int) (off, end int) {
	off = from
	for off < len(l.there) && l.there[off] {
		off++
	}
	for end = off; end < len(l.there) && end < off+n && !l.there[end]; {
		end++
	}
	return off, end
}

func (l *sparseLife) put(off, end int) {
	if n, err := l.in.WriteAt(l.data[off:end], int64(off)); err != nil || n != end-off {
		l.Fatal(n, err)
	}
	for i := off; i < end; i++ {
		l.there[i] = true
	}
}

// write writes fragments here and there, and syncs now and then.
func (l *sparseLife) write(fragments int) {
	l.begin()
	for range fragments {
		off, end := l.gap(l.rng.IntN(len(l.data))/4096*4096, 1+l.rng.IntN(3*PieceSize/2))
		l.put(off, end)
		if l.rng.IntN(4) > 0 {
			continue
		}
		whole := l.whole()
		if err := l.in.SyncPieces(context.Background()); err != nil {
			l.Fatal(err)
		}
		l.synced = whole
	}
}

// whole gives the pieces that are.
func (l *sparseLife) whole() (is []int) {
	for i := 0; i*PieceSize < len(l.data); i++ {
		if !slices.Contains(l.there[i*PieceSize:min(len(l.data), (i+1)*PieceSize)], false) {
			is = append(is, i)
		}
	}
	return is
}

func (l *sparseLife) keep() {
	if l.in != nil {
		if err := l.in.Keep(); err != nil {
			l.Fatal(err)
		}
		l.in = nil
	}
}

// resume goes on with the fill and finds what is to be there: what was written,
// by the piece, or what of it was synced.
func (l *sparseLife) resume(least pieceState) {
	want := l.synced
	if least == landed {
		want = l.whole()
	}
	l.begin()
	for _, i := range want {
		if !slices.Contains(l.whole(), i) {
			l.Fatalf("piece %d is lost: %v", i, l.in.Ranges())
		}
	}
	for _, r := range l.in.Ranges() {
		got := make([]byte, r.End-r.Off)
		if _, err := l.in.ReadAt(got, r.Off); err != nil || !bytes.Equal(got, l.data[r.Off:r.End]) {
			l.Fatalf("%v: wrong bytes are believed, %v", r, err)
		}
	}
	l.counted()
}

func (l *sparseLife) besides() int64 { return (&world{disk: memory{l.disk}}).besides() }

// lies is what the account is to hold.
func (l *sparseLife) lies() int64 { return l.disk.Used() - l.besides() + l.root }

// counted: what the account says is at least what lies there.
func (l *sparseLife) counted() {
	u := l.s.Usage()
	if lies := l.lies(); u.Used+u.Reserved < lies {
		l.Fatalf("used %d and reserved %d, and %d lie there", u.Used, u.Reserved, lies)
	}
}

func (l *sparseLife) finish() {
	for off, end := l.gap(0, 100_000); off < end; off, end = l.gap(off, 100_000) {
		l.put(off, end)
	}
	allocated, err := l.in.Commit()
	if err != nil {
		l.Fatal(err)
	}
	if lies := l.lies(); l.s.Usage().Used != lies || l.s.Usage().Reserved != 0 {
		l.Fatalf("used %d, %d lie there, %d still reserved", l.s.Usage().Used, lies, l.s.Usage().Reserved)
	}
	f, err := l.s.OpenFile(l.d)
	if err != nil {
		l.Fatal(err)
	}
	got := make([]byte, f.Size)
	if _, err := f.ReadAt(got, 0); err != nil || !l.d.Verify(got) {
		l.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := f.Close(); err != nil {
		l.Fatal(err)
	}
	if err := l.s.Remove(l.d, allocated); err != nil {
		l.Fatal(err)
	}
	for _, left := range []string{sidePlace(l.d), place(fillsDir, l.d)} {
		if _, err := l.disk.Lstat(left); err == nil {
			l.Fatalf("%s is left", left)
		}
	}
}
