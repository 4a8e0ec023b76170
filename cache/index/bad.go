package index

import (
	"bytes"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// maxBad bounds the memory for damaged entries; those beyond are met again.
const maxBad = 1000

// badKey names an entry whose value is damaged, or an order of use without its
// record.
type badKey struct{ bucket, key string }

// noteBad remembers an entry for the next Apply to delete.
func (x *Index) noteBad(bucket, key []byte) {
	x.badValues.Add(1)
	if x.o.Lost != nil && bytes.Equal(bucket, bucketBlobs) {
		x.o.Lost()
	}
	x.badMu.Lock()
	defer x.badMu.Unlock()
	if len(x.bad) < maxBad {
		x.bad[badKey{string(bucket), string(key)}] = struct{}{}
	}
}

func (x *Index) takeBad() []badKey {
	x.badMu.Lock()
	defer x.badMu.Unlock()
	bad := slices.Collect(maps.Keys(x.bad))
	clear(x.bad)
	return bad
}

// dropBad deletes what was noted and is still bad.
func (w *writer) dropBad() error {
	for _, b := range w.bad {
		bucket, key := w.tx.Bucket([]byte(b.bucket)), []byte(b.key)
		if w.sound([]byte(b.bucket), key, bucket.Get(key)) {
			continue // written anew since
		}
		if b.bucket == string(bucketBlobs) {
			if _, _, err := w.take(key); err != nil { // a sound value with a lost name
				return err
			}
		}
		if err := bucket.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) sound(bucket, key, value []byte) (ok bool) {
	switch {
	case value == nil && !bytes.Equal(bucket, bucketRecency):
		return true
	case bytes.Equal(bucket, bucketBlobs):
		s, ok := decodeRecord(key, value)
		_, ok1 := nameOf(w.tx, s.mediaType)
		_, ok2 := nameOf(w.tx, s.origin)
		return ok && ok1 && ok2
	case bytes.Equal(bucket, bucketTags):
		t, ok := decodeTag(key, value)
		_, ok1 := nameOf(w.tx, t.mediaType)
		return ok && ok1
	case bytes.Equal(bucket, bucketGrants):
		_, ok = decodeGrant(key, value)
	case bytes.Equal(bucket, bucketDeparted):
		_, _, ok = decodeDeparture(key, value)
	case bytes.Equal(bucket, bucketRecency):
		l, last, digest, kok := cutRecency(key)
		s, rok := decodeRecord(digest, w.blobs.Get(digest))
		return kok && rok && s.mayStandIn(l) && s.last == last
	}
	return ok
}

func putTotals(tx *bolt.Tx, t Totals) error {
	return tx.Bucket(bucketMeta).Put(keyTotals, encodeTotals(keyTotals, t))
}

// count reads all records: about a second for a million. A damaged one is noted
// and not counted.
func (x *Index) count(tx *bolt.Tx) (t Totals) {
	c := tx.Bucket(bucketBlobs).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if s, ok := decodeRecord(k, v); ok {
			t.add(s, +1)
		} else {
			x.noteBad(bucketBlobs, k)
		}
	}
	return t
}
