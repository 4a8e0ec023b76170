package cache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"cistern/cache/index"
	"cistern/internal/oci"
)

const (
	// brokenSuffix is added to the name of an index that is put aside.
	brokenSuffix = ".broken"
	// rebuildMark is a file that is there while blobs/ may hold files without
	// a record: a process that ends meanwhile leaves the rest to the next.
	rebuildMark = "rebuild"
)

// takeUp counts what lies in blobs/ without a record and has it recorded in the
// background: after the index was lost, or where an earlier process did not
// come to the end of this. Until then nobody writes these digests: their files
// are neither known to be right nor in anybody's way.
func (c *Cache) takeUp(lost bool) {
	mark := filepath.Join(c.o.Dir, rebuildMark)
	if _, err := os.Lstat(mark); err != nil && !lost {
		return
	}
	if fi, err := os.Lstat(filepath.Join(c.o.Dir, "index.db"+brokenSuffix)); err == nil && lost {
		c.store.AddUsed(fi.Size())
	}
	var files int
	for f, err := range c.store.Blobs() {
		if err != nil {
			c.diskFailed("looking through the blobs", err)
			break
		}
		if _, known := c.findStored(f.Digest); !known {
			c.store.AddUsed(f.Allocated)
			files++
		}
	}
	if files > 0 {
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			c.diskFailed("marking that blobs are to be recorded", err)
		}
	}
	c.rebuilding.Store(true)
	c.work.Add(1)
	go c.rebuild(mark)
}

// unrecorded tells whether a file without a record lies where the blob would.
func (c *Cache) unrecorded(d oci.Digest) bool {
	if _, known := c.findStored(d); known {
		return false
	}
	f, err := c.store.OpenFile(d)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// rebuild hashes the files without a record again, and records each that is
// what its name says. Nobody waits for it. What it takes up is private, with no
// grants, until an upstream's word makes it otherwise: who may read what was in
// the index.
func (c *Cache) rebuild(mark string) {
	defer c.work.Done()
	var found, bad int
	for f, err := range c.store.Blobs() {
		if c.ctx.Err() != nil {
			return
		}
		if err != nil {
			c.diskFailed("looking through the blobs", err)
			return
		}
		if _, known := c.findStored(f.Digest); known {
			continue
		}
		rec := index.Record{Digest: f.Digest, Size: f.Size, Allocated: f.Allocated, MediaType: oci.MediaTypeOctetStream,
			Class: index.ClassOf(f.Size, false), FirstSeen: time.Now(), LastUsed: time.Now()}
		if !c.intact(rec) {
			if c.ctx.Err() != nil {
				return
			}
			bad++
			if err := c.store.Remove(rec.Digest, rec.Allocated); err != nil {
				c.diskFailed("removing a damaged blob", err)
			}
			continue
		}
		found++
		c.commit.Lock()
		ok := c.apply(index.Batch{Put: []index.Record{rec}})
		c.commit.Unlock()
		if !ok {
			return
		}
	}
	c.rebuilding.Store(false)
	if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.diskFailed("noting that all blobs are recorded", err)
	}
	if found+bad > 0 {
		c.log.Info("the index is built anew", zap.Int("blobs", found), zap.Int("damaged", bad))
	}
}

// intact hashes a blob's file.
func (c *Cache) intact(rec index.Record) bool {
	f, err := c.store.OpenFile(rec.Digest)
	if err != nil {
		return false
	}
	defer f.Close()
	h := rec.Digest.Hash()
	_, err = io.Copy(h, &stoppable{c.ctx, f.File})
	return err == nil && rec.Digest.Matches(h)
}

// stoppable reads until its context ends: whoever closes does not wait for
// gigabytes to be hashed.
type stoppable struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (s *stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}
