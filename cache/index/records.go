package index

import (
	"iter"

	"cistern/internal/oci"
)

// recordsPerPage is how many records a walk reads in one transaction.
const recordsPerPage = 256

// Records yields all records, in the order of their digests; after an error it ends. It
// sees changes made while it runs, or not.
func (x *Index) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for last := (oci.Digest{}); ; {
			page, err := x.After(last, recordsPerPage)
			if err != nil {
				yield(Record{}, err)
				return
			}
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
			}
			if len(page) == 0 {
				return
			}
			last = page[len(page)-1].Digest
		}
	}
}
