package index

import (
	"bytes"
	"math"
	"testing"
	"time"
)

func TestNanos(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   time.Time
		want uint64
	}{
		{time.Time{}, 0},
		{time.Unix(-1, 0), 0},
		{time.Unix(0, 1), 1},
		{time.Unix(1<<40, 0), math.MaxInt64},
		{time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), math.MaxInt64},
	} {
		if got := nanos(c.in); got != c.want {
			t.Errorf("%v: %d, want %d", c.in, got, c.want)
		}
	}
}

// What a decoder accepts is what the encoder made: byte for byte.
func FuzzDecode(f *testing.F) {
	key := digestKey(digest(1))
	f.Add(key, stored{class: 2, size: 3, allocated: 4096, first: 7, last: 9, mediaType: 1}.encode(key))
	f.Add(key, storedTag{target: digest(2), size: -1, checked: 4}.encode(key))
	f.Add(key, encodeGrant(key, 5))
	f.Add(key, encodeDeparture(key, 8, Departure{Why: Removed, Size: 1, At: timeOf(9)}))
	f.Add(key, encodeTotals(key, Totals{Blobs: [Classes]int64{1, 2, 3}}))
	f.Add(recencyKey(lane(ClassSmall), 77, key), []byte{})
	f.Add([]byte{}, []byte{1})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		// Seal it, or the checksum hides the decoders from the fuzzer.
		for _, v := range [][]byte{value, seal(key, bytes.Clone(value))} {
			if s, ok := decodeRecord(key, v); ok && !bytes.Equal(s.encode(key), v) {
				t.Errorf("record %+v", s)
			}
			if s, ok := decodeTag(key, v); ok && !bytes.Equal(s.encode(key), v) {
				t.Errorf("tag %+v", s)
			}
			if at, ok := decodeGrant(key, v); ok && !bytes.Equal(encodeGrant(key, at), v) {
				t.Errorf("grant %d", at)
			}
			if n, d, ok := decodeDeparture(key, v); ok && !bytes.Equal(encodeDeparture(key, n, d), v) {
				t.Errorf("departure %d %+v", n, d)
			}
			if s, ok := decodeTotals(key, v); ok && !bytes.Equal(encodeTotals(key, s), v) {
				t.Errorf("totals %+v", s)
			}
		}
		if c, last, digest, ok := cutRecency(key); ok && !bytes.Equal(recencyKey(c, last, digest), key) {
			t.Errorf("recency key %x", key)
		}
		if d, rest, ok := cutDigest(key); ok && !bytes.Equal(append(digestKey(d), rest...), key) {
			t.Errorf("digest key %x", key)
		}
	})
}
