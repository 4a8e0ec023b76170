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
)

// flaw is what is wrong with a blob's file.
type flaw struct {
	err    error
	off    int64 // of the first bad byte; -1: it cannot be known
	absent bool  // the disk does not give it, or does not know it: that may be the disk
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

	second bool // it has failed before: see walk
	right  bool // all was read, and is right
}

func newExam(rec index.Record) *exam { return &exam{rec: rec, sum: rec.Digest.Hash()} }

// What is wrong with a file that the disk gives, or has no more.
var (
	errNoFile = errors.New("its file is gone")
	errWrong  = errors.New("its bytes are not those of its digest")
	// errUnread says that not all was looked at.
	errUnread = errors.New("not all blobs could be hashed")
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
		return 0, true, &flaw{err, unknown, true}
	case errors.Is(err, fs.ErrNotExist):
		return 0, true, &flaw{errNoFile, unknown, true}
	case err != nil:
		return 0, true, &flaw{err, unknown, true}
	case f.Size != e.rec.Size:
		return 0, true, &flaw{fmt.Errorf("its file has %d bytes of %d", f.Size, e.rec.Size), min(f.Size, e.rec.Size), false}
	}
	if e.second && e.off == 0 {
		durable.Uncache(f.File) // what counts is what the disk gives now
	}
	p := buf[:min(int64(len(buf)), e.rec.Size-e.off)]
	n, err = durable.ReadAside(f.File, p, e.off)
	if n < len(p) { // once more: it may have been the bus
		var m int
		m, err = durable.ReadAside(f.File, p[n:], e.off+int64(n))
		n += m
	}
	if n < len(p) && short(err) {
		return 0, false, nil
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
		e.right = n > 0 // of an empty one the disk has given nothing
		return n, true, nil
	case !e.again:
		durable.Uncache(f.File)
		e.sum, e.off, e.again = e.rec.Digest.Hash(), 0, true
		return n, false, nil
	}
	return n, true, &flaw{errWrong, unknown, false}
}

// damage is what was found of a blob that is damaged.
type damage struct {
	rec index.Record
	flaw
}

// spoil drops a blob that is damaged, and says so. False if somebody else has, or if the
// disk does not let it go.
func (c *Cache) spoil(rec index.Record, bad flaw) bool {
	rec, ok := c.drop(rec, index.Damaged)
	if !ok {
		return false
	}
	c.stats.damaged.Add(1)
	known, aside, name := zap.Skip(), zap.Skip(), c.store.Aside(rec.Digest)
	if name != "" {
		aside = zap.String("set_aside", name)
	}
	if bad.off >= 0 {
		known = zap.Int64("first_bad_offset", bad.off)
	} else if name != "" {
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
