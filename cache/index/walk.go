package index

import (
	"bytes"
	"encoding/binary"
	"time"

	bolt "go.etcd.io/bbolt"

	"cistern/internal/oci"
)

// After gives the records that follow a digest in the order of digests, n at most; those
// from the first one on for the zero digest. None: there are no more.
func (x *Index) After(d oci.Digest, n int) (page []Record, err error) {
	err = x.view("get", func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketBlobs).Cursor()
		var from []byte
		if !d.IsZero() {
			from = digestKey(d)
		}
		for k, v := c.Seek(from); k != nil && len(page) < n; k, v = c.Next() {
			if bytes.Equal(k, from) {
				continue
			}
			here, rest, ok := cutDigest(k)
			s, rok := decodeRecord(k, v)
			if !ok || !rok || len(rest) != 0 {
				x.noteBad(bucketBlobs, k)
				continue
			}
			if r, ok := x.full(tx, k, here, s); ok {
				page = append(page, r)
			}
		}
		return nil
	})
	return page, err
}

// Scrub is how far somebody has come who looks at all blobs, in the order of digests.
type Scrub struct {
	Last  oci.Digest // that was looked at; zero: none since Began
	Began time.Time
	Ended time.Time // of the time before, if that came to its end
}

var keyScrub = []byte("scrub")

// Scrub is what SetScrub was last given; the zero value if nothing.
func (x *Index) Scrub() (s Scrub, err error) {
	err = x.view("get", func(tx *bolt.Tx) error {
		b, ok := unseal(keyScrub, tx.Bucket(bucketMeta).Get(keyScrub))
		if !ok || len(b) < 16 {
			return nil
		}
		s.Began, s.Ended = timeOf(be64(b)), timeOf(be64(b[8:]))
		s.Last, _, _ = cutDigest(b[16:])
		return nil
	})
	return s, err
}

// SetScrub remembers how far it has come, in a transaction of its own.
func (x *Index) SetScrub(s Scrub) error {
	x.applyMu.Lock()
	defer x.applyMu.Unlock()
	b := binary.BigEndian.AppendUint64(nil, nanos(s.Began))
	b = binary.BigEndian.AppendUint64(b, nanos(s.Ended))
	if !s.Last.IsZero() {
		b = append(b, digestKey(s.Last)...)
	}
	return x.update("apply", func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyScrub, seal(keyScrub, b))
	}, nil)
}
