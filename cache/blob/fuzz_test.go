package blob

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"cistern/internal/oci"
)

// Folders and a name that are read as a digest's are those that the digest has,
// and stay inside the directory.
func FuzzDigestOf(f *testing.F) {
	add := func(d oci.Digest) { f.Add(d.Algorithm(), d.Hex()[:2], d.Hex()) }
	add(digest(1))
	add(digest(2))
	f.Add("sha256", "ab", "../../../etc/passwd")
	f.Add("sha512", "ab", "ab")
	f.Add("sha256", "", "")
	f.Add("sha256", "..", strings.Repeat("ab", 32))
	f.Fuzz(func(t *testing.T, alg, shard, name string) {
		d, ok := digestOf(alg, shard, name)
		if full := strings.Join([]string{blobsDir, alg, shard, name}, "/"); ok && (d.IsZero() || !filepath.IsLocal(full) || place(blobsDir, d) != full) {
			t.Errorf("%q is read as %v", full, d)
		}
	})
}

// The piece state of a fill, however it was torn: what is read of it is written
// again as it was, entry by entry, and nothing that was not written is whole.
func FuzzPieces(f *testing.F) {
	whole := encodeHeader(2*PieceSize + 5)
	for i, state := range []pieceState{landed, missing, synced} {
		whole = append(whole, encodePiece(i, piece{uint32(i) * 77, state})...)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add(encodeHeader(1 << 26))
	f.Add(encodeHeader(maxSideSize + 1))
	f.Add(encodeHeader(-1))
	f.Fuzz(func(t *testing.T, b []byte) {
		ps, err := decodePieces(b)
		if err != nil {
			return
		}
		if ps.size < 0 || ps.size > maxSideSize || !bytes.Equal(encodeHeader(ps.size), append(bytes.Clone(b[:20]), 0, 0, 0, 0)) {
			t.Fatalf("a size of %d", ps.size)
		}
		for i, p := range ps.all[:min(len(ps.all), len(b))] {
			at := sideHeader + i*sideEntry
			if p.state != missing && !bytes.Equal(encodePiece(i, p), b[at:at+sideEntry]) {
				t.Errorf("piece %d is read as %v", i, p)
			}
		}
		if ps.size > 1<<26 {
			return // it would take too long
		}
		last := int64(0)
		for _, r := range ps.ranges() {
			if r.Off < last || r.End <= r.Off || r.End > ps.size {
				t.Errorf("%v of %d", r, ps.size)
			}
			last = r.End + 1
		}
	})
}
