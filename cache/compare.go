package cache

import (
	"errors"
	"io"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// mostUnlocated bounds the damaged blobs that wait to be compared with good ones.
const mostUnlocated = 64

// comparison finds out where a damaged blob was wrong: it compares what is set aside with
// the blob that is here by now, span by span. In between it has nothing open, as an exam.
type comparison struct {
	d   oci.Digest
	off int64
}

// compare reads on as far as the two buffers, of one length, reach, and tells how much that was.
// over: there is no more to be read, and at is where the two begin to differ; unknown if they
// do not, or if one of them is gone or cannot be read.
func (c *Cache) compare(m *comparison, a, b []byte) (n int, over bool, at int64) {
	bad, badSize, err := c.store.OpenAside(m.d)
	if err != nil {
		return 0, !short(err), unknown
	}
	defer bad.Close()
	good, err := c.store.OpenFile(m.d)
	if err != nil {
		return 0, !short(err), unknown
	}
	defer good.Close()
	size := min(badSize, good.Size)
	k := max(0, min(int64(len(a)), size-m.off)) // either may be another file by now
	_, aerr := durable.ReadAside(bad, a[:k], m.off)
	_, berr := durable.ReadAside(good.File, b[:k], m.off)
	if err := errors.Join(aerr, berr); err != nil && !errors.Is(err, io.EOF) {
		return 0, !short(err), unknown
	}
	for i := range k {
		if a[i] != b[i] {
			return int(2 * k), true, m.off + i
		}
	}
	m.off += k
	switch {
	case m.off < size:
		return int(2 * k), false, unknown
	case badSize != good.Size:
		return int(2 * k), true, size
	}
	return int(2 * k), true, unknown // alike: it was not the file
}

// toCompare gives a damaged blob that is here again; false if there is none.
func (c *Cache) toCompare() (*comparison, bool) {
	c.mu.Lock()
	some := make([]oci.Digest, 0, len(c.unlocated))
	for d := range c.unlocated {
		some = append(some, d)
	}
	c.mu.Unlock()
	for _, d := range some {
		if _, here := c.findStored(d); here {
			c.located(d)
			return &comparison{d: d}, true
		}
	}
	return nil, false
}

// located notes that a damaged blob is compared, and has not to wait for it any more.
func (c *Cache) located(d oci.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unlocated, d)
}
