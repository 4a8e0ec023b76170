package index

import (
	"bytes"
	"iter"

	bolt "go.etcd.io/bbolt"

	"cistern/internal/oci"
)

// recordsPerPage is how many records a walk reads in one transaction.
const recordsPerPage = 256

// Records yields all records, in the order of their digests, those that come after one;
// zero: from the first. After an error it ends. It sees changes made while it runs, or
// not.
func (x *Index) Records(after oci.Digest) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		var next []byte
		if !after.IsZero() {
			next = append(digestKey(after), 0)
		}
		for {
			page, rest, err := x.recordsFrom(next)
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
			}
			if err != nil {
				yield(Record{}, err)
			}
			if err != nil || rest == nil {
				return
			}
			next = rest
		}
	}
}

// recordsFrom reads a page of records, and says where the next one begins; nil: nowhere.
func (x *Index) recordsFrom(key []byte) (page []Record, next []byte, err error) {
	err = x.view("records", func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketBlobs).Cursor()
		for k, v := c.Seek(key); k != nil; k, v = c.Next() {
			if len(page) == recordsPerPage {
				next = bytes.Clone(k)
				return nil
			}
			s, ok := decodeRecord(k, v)
			d, _, known := cutDigest(k)
			if !ok || !known {
				x.noteBad(bucketBlobs, k)
				continue
			}
			if r, ok := x.full(tx, k, d, s); ok {
				page = append(page, r)
			}
		}
		return nil
	})
	return page, next, err
}
