package cache

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"go.uber.org/zap"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/durable"
	"cistern/internal/oci"
)

// flaw is what is wrong with a blob's file.
type flaw struct {
	err        error
	off        int64 // of the first bad byte; -1: it cannot be known
	unreadable bool  // the disk does not give it
}

// unknown is an offset that cannot be known: a digest says whether all is right, and no
// more.
const unknown = -1

// exam hashes the file of one blob, span by span. In between it has nothing open, so that
// a blob can be evicted that is read for minutes.
type exam struct {
	rec   index.Record
	sum   hash.Hash
	off   int64
	again bool // the bytes were wrong: all of it once more, from the disk
}

func newExam(rec index.Record) *exam { return &exam{rec: rec, sum: rec.Digest.Hash()} }

// What is wrong with a file that the disk gives, or has no more.
var (
	errNoFile = errors.New("its file is gone")
	errWrong  = errors.New("its bytes are not those of its digest")
)

// step reads on, and tells how much that was. over: there is no more to be read, and bad
// is what is wrong; nil if nothing is, or if the blob is gone meanwhile.
func (c *Cache) step(e *exam, buf []byte) (n int, over bool, bad *flaw) {
	f, err := c.store.OpenFile(e.rec.Digest)
	if short(err) {
		return 0, false, nil
	}
	if err == nil {
		defer f.Close()
	}
	if _, stands := c.current(e.rec); !stands {
		return 0, true, nil // what was opened may be the next one of that digest
	}
	switch {
	case errors.Is(err, blob.ErrForeign):
		return 0, true, &flaw{err, unknown, false}
	case errors.Is(err, fs.ErrNotExist):
		return 0, true, &flaw{errNoFile, unknown, false}
	case err != nil:
		return 0, true, &flaw{err, unknown, true}
	case f.Size != e.rec.Size:
		return 0, true, &flaw{fmt.Errorf("its file has %d bytes of %d", f.Size, e.rec.Size), min(f.Size, e.rec.Size), false}
	}
	p := buf[:min(int64(len(buf)), e.rec.Size-e.off)]
	n, err = durable.ReadAside(f.File, p, e.off)
	if n < len(p) { // once more: it may have been the bus
		var m int
		m, err = durable.ReadAside(f.File, p[n:], e.off+int64(n))
		n += m
	}
	_, _ = e.sum.Write(p[:n])
	e.off += int64(n)
	switch {
	case n < len(p):
		return n, true, &flaw{fmt.Errorf("its file cannot be read: %w", err), e.off, !errors.Is(err, io.EOF)}
	case e.off < e.rec.Size:
		return n, false, nil
	case e.rec.Digest.Matches(e.sum):
		if e.again {
			c.log.Error("a cached blob was wrong in memory, and is right on disk: look at the machine's memory", zap.Stringer("digest", e.rec.Digest))
		}
		return n, true, nil
	case !e.again:
		durable.Uncache(f.File)
		*e = exam{rec: e.rec, sum: e.rec.Digest.Hash(), again: true}
		return n, false, nil
	}
	return n, true, &flaw{errWrong, unknown, false}
}

// damage is what was found of a blob that is damaged.
type damage struct {
	rec index.Record
	flaw
}

// damages hold back what the disk does not give, until it gives something: a disk that
// gives nothing may come back with all that it has.
type damages struct{ held []damage }

// mostUnreadable blobs in a row are no bad blobs, but a bad disk.
const mostUnreadable = 16

var errDeadDisk = fmt.Errorf("the disk does not give %d blobs in a row: nothing is taken for damaged", mostUnreadable)

// add takes what was found of one blob, bad being nil if it is right, and gives what is
// sure by now. dead: the disk gives nothing.
func (v *damages) add(rec index.Record, bad *flaw) (sure []damage, dead bool) {
	if bad != nil {
		v.held = append(v.held, damage{rec, *bad})
	}
	switch {
	case bad == nil || !bad.unreadable:
		return v.rest(), false
	case len(v.held) < mostUnreadable:
		return nil, false
	}
	v.held = nil
	return nil, true
}

// rest gives what was held back.
func (v *damages) rest() []damage {
	all := v.held
	v.held = nil
	return all
}

// spoil drops a blob that is damaged, and says so. False if somebody else has, or if the
// disk does not let it go.
func (c *Cache) spoil(rec index.Record, bad flaw) bool {
	rec, ok := c.drop(rec, index.Damaged)
	if !ok {
		return false
	}
	c.stats.damaged.Add(1)
	known, aside := zap.Skip(), zap.Skip()
	if name := c.store.Aside(rec.Digest); name != "" {
		aside = zap.String("set_aside", name)
	}
	if bad.off >= 0 {
		known = zap.Int64("first_bad_offset", bad.off)
	} else {
		c.mu.Lock()
		if len(c.unlocated) < mostUnlocated {
			c.unlocated[rec.Digest] = struct{}{}
		}
		c.mu.Unlock()
	}
	c.log.Warn("a cached blob is damaged, and fetched again when it is asked for", zap.Stringer("digest", rec.Digest),
		zap.Int64("size", rec.Size), zap.String("upstream", rec.Origin), aside, known, zap.Error(bad.err))
	return true
}

// mostUnlocated bounds the damaged blobs that wait to be compared with good ones.
const mostUnlocated = 64

// locate compares what is set aside of a digest with the blob that is here by now, and
// gives the first offset at which they differ; false if there is nothing to compare.
func (c *Cache) locate(d oci.Digest) (off int64, ok bool) {
	c.mu.Lock()
	delete(c.unlocated, d)
	c.mu.Unlock()
	bad, badSize, err := c.store.OpenAside(d)
	if err != nil {
		return 0, false
	}
	defer bad.Close()
	good, err := c.store.OpenFile(d)
	if err != nil {
		return 0, false
	}
	defer good.Close()
	a, b := c.chunks.Get().(*[chunk]byte), c.chunks.Get().(*[chunk]byte)
	defer c.chunks.Put(a)
	defer c.chunks.Put(b)
	for size := min(badSize, good.Size); off < size; {
		n := min(size-off, chunk)
		if _, err := durable.ReadAside(bad, a[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return 0, false
		}
		if _, err := durable.ReadAside(good.File, b[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return 0, false
		}
		for i := range n {
			if a[i] != b[i] {
				return off + i, true
			}
		}
		off += n
	}
	return off, badSize != good.Size // alike: it was not the file
}

// locateSome is locate for what was damaged and is here again.
func (c *Cache) locateSome() {
	c.mu.Lock()
	var some []oci.Digest
	for d := range c.unlocated {
		some = append(some, d)
	}
	c.mu.Unlock()
	for _, d := range some {
		if _, here := c.findStored(d); !here {
			continue
		}
		if off, ok := c.locate(d); ok {
			c.log.Info("a damaged blob is here again, and tells what was wrong", zap.Stringer("digest", d), zap.Int64("first_bad_offset", off))
		}
	}
}
