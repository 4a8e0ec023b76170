package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"
	"syscall"

	"cistern/internal/oci"
)

// Salvage reads what can still be read from the file of a broken index that was
// put aside. It reads page by page without bbolt, takes only what a checksum
// vouches for, and never writes, locks or waits: also while a handle on the
// broken index is still open. Damage is never an error: what it hit is
// missing. All methods may be called concurrently.
//
// A tag may be of any moment before the damage, since where pages are lost
// older ones are taken; grants and records are of the last commit whose root
// can be read.
type Salvage struct {
	f     pageFile
	trees map[string]tree // by bucket

	once  sync.Once
	names map[uint32]string
}

// maxNames bounds the memory for names, in bytes; tags, grants and records
// with a name beyond it are missing.
const maxNames = 32 << 20

// OpenSalvage opens a file that was an index; an error is one of the file
// system. Close must be called.
func OpenSalvage(path string) (*Salvage, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("salvage an index: %w", err)
	}
	fi, err := file.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("salvage an index: %w", err), file.Close())
	}
	s := &Salvage{f: pageFile{file: file, size: fi.Size()}, trees: map[string]tree{}}
	for _, r := range s.f.roots() {
		for e := range (tree{f: &s.f, root: r.page}).from(nil, lookupPages) {
			t, ok := s.f.subtree(e.value)
			if _, known := s.trees[string(e.key)]; e.bucket && ok && !known {
				s.trees[string(e.key)] = t
			}
		}
	}
	return s, nil
}

// Close closes the file. Nothing may be called afterwards.
func (s *Salvage) Close() error { return s.f.file.Close() }

// Tags yields the tags. Where pages are lost a tag may come several times, as
// it was at several moments: the one with the latest Checked is right.
func (s *Salvage) Tags() iter.Seq[Tag] {
	return func(yield func(Tag) bool) {
		whole := true
		for e, ok := range s.bucket(bucketTags, nil, 0) {
			if !ok {
				whole = false
			} else if t, ok := s.tag(e.key, e.value); !ok {
				whole = false
			} else if !yield(t) {
				return
			}
		}
		if whole {
			return
		}
		for e := range s.f.all() {
			if t, ok := s.tag(e.key, e.value); ok && !yield(t) {
				return
			}
		}
	}
}

func (s *Salvage) tag(key, value []byte) (Tag, bool) {
	v, ok := decodeTag(key, value)
	if !ok || len(key) <= 4 {
		return Tag{}, false
	}
	mediaType, ok1 := s.name(v.mediaType)
	text, _ := s.name(be32(key))
	repo, ok2 := repoOf(text)
	return v.full(repo, string(key[4:]), mediaType), ok1 && ok2
}

// Record is what the file says of a digest. That the blob is whole it does not
// prove any more; its labels do not depend on that.
func (s *Salvage) Record(d oci.Digest) (r Record, found bool) {
	if d.IsZero() {
		return Record{}, false
	}
	key := digestKey(d)
	for e, ok := range s.bucket(bucketBlobs, key, lookupPages) {
		if !ok || !bytes.Equal(e.key, key) {
			return Record{}, false
		}
		v, ok := decodeRecord(e.key, e.value)
		mediaType, ok1 := s.name(v.mediaType)
		origin, ok2 := s.name(v.origin)
		return v.full(d, mediaType, origin), ok && ok1 && ok2
	}
	return Record{}, false
}

// Grants yields the grants of a digest.
func (s *Salvage) Grants(d oci.Digest) iter.Seq[Grant] {
	return func(yield func(Grant) bool) {
		if d.IsZero() {
			return
		}
		prefix := digestKey(d)
		for e, ok := range s.bucket(bucketGrants, prefix, lookupPages) {
			if !ok || !bytes.HasPrefix(e.key, prefix) {
				return
			}
			at, ok := decodeGrant(e.key, e.value)
			if !ok || len(e.key) != len(prefix)+4 {
				continue
			}
			text, _ := s.name(be32(e.key[len(prefix):]))
			if repo, ok := repoOf(text); ok && !yield(Grant{repo, d, timeOf(at)}) {
				return
			}
		}
	}
}

// tagsPerBatch is how many tags TakeTags writes in one transaction.
const tagsPerBatch = 512

// TakeTags puts the salvaged tags into the index, but for those of which it
// knows as much or more, and tells how many are new to it. It waits for fsync; after an error
// some may be in.
func (x *Index) TakeTags(s *Salvage) (taken int, err error) {
	batch := map[oci.Reference]Tag{}
	flush := func() error {
		var b Batch
		for ref, t := range batch {
			had, found, err := x.Tag(ref)
			if err != nil {
				return err
			}
			if !found {
				taken++
			}
			if !found || had.Checked.Before(t.Checked) {
				b.PutTags = append(b.PutTags, t)
			}
		}
		clear(batch)
		return x.Apply(b)
	}
	for t := range s.Tags() {
		if had, ok := batch[t.Reference]; !ok || had.Checked.Before(t.Checked) {
			batch[t.Reference] = t
		}
		if len(batch) == tagsPerBatch {
			if err := flush(); err != nil {
				return taken, err
			}
		}
	}
	err = flush()
	return taken, err
}

// bucket yields a bucket's entries from key on; false at the end if some may be
// missing.
func (s *Salvage) bucket(name, key []byte, limit int) iter.Seq2[entry, bool] {
	t, ok := s.trees[string(name)]
	if !ok {
		return func(yield func(entry, bool) bool) { yield(entry{}, false) }
	}
	return t.from(key, limit)
}

// name is the text of an id.
func (s *Salvage) name(id uint32) (string, bool) {
	if id == 0 {
		return "", true
	}
	s.once.Do(s.readNames)
	text, ok := s.names[id]
	return text, ok
}

// readNames reads both buckets of names, each of which knows everything. If
// both are damaged, it looks for names in all pages: there only what both agree
// on counts, since a page may be of a transaction that never was.
func (s *Salvage) readNames() {
	ids, names := newNameSet(), newNameSet()
	whole := [2]bool{true, true}
	for e, ok := range s.bucket(bucketIDs, nil, 0) {
		whole[0] = ok && ids.addID(e) && whole[0]
	}
	for e, ok := range s.bucket(bucketNames, nil, 0) {
		whole[1] = ok && names.addName(e) && whole[1]
	}
	s.names = ids.text
	for id, text := range names.text {
		s.names[id] = text
	}
	if whole[0] || whole[1] {
		return
	}
	ids, names = newNameSet(), newNameSet()
	for e := range s.f.all() {
		ids.addID(e)
		names.addName(e)
	}
	for id, text := range ids.text {
		if _, known := s.names[id]; !known && names.text[id] == text && !ids.torn[id] && !names.torn[id] {
			s.names[id] = text
		}
	}
}

// nameSet collects names up to maxNames bytes.
type nameSet struct {
	text map[uint32]string
	torn map[uint32]bool // of which there are two
	size int
}

func newNameSet() *nameSet { return &nameSet{text: map[uint32]string{}, torn: map[uint32]bool{}} }

func (n *nameSet) addID(e entry) bool {
	body, ok := unseal(e.key, e.value)
	return ok && len(e.key) == 4 && n.add(be32(e.key), body)
}

func (n *nameSet) addName(e entry) bool {
	body, ok := unseal(e.key, e.value)
	return ok && len(body) == 4 && !bytes.Equal(e.key, keyVersion) && n.add(binary.BigEndian.Uint32(body), e.key)
}

func (n *nameSet) add(id uint32, text []byte) bool {
	if had, ok := n.text[id]; ok {
		if had != string(text) {
			n.torn[id] = true
		}
		return true
	}
	const each = 64 // a map's entry
	if n.size += len(text) + each; n.size > maxNames {
		return false
	}
	n.text[id] = string(text)
	return true
}
