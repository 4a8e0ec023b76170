package index

import (
	"encoding/binary"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"

	"cistern/internal/oci"
)

// maxName bounds what is interned: a media type comes from upstream.
const maxName = 1024

// Names are stored as "text -> id crc" and "id -> text crc". Id 0 is "".

// intern gives the id of text and makes one if there is none; 0, false for a
// text that is too long.
func intern(tx *bolt.Tx, text string) (id uint32, ok bool, err error) {
	if text == "" || len(text) > maxName {
		return 0, text == "", nil
	}
	names := tx.Bucket(bucketNames)
	if id, ok := nameID(tx, text); ok {
		return id, true, nil
	}
	seq, err := names.NextSequence()
	if err != nil {
		return 0, false, err
	}
	key := binary.BigEndian.AppendUint32(nil, uint32(seq))
	if err := tx.Bucket(bucketIDs).Put(key, seal(key, []byte(text))); err != nil {
		return 0, false, err
	}
	return uint32(seq), true, names.Put([]byte(text), seal([]byte(text), key))
}

// nameID is intern that makes none.
func nameID(tx *bolt.Tx, text string) (uint32, bool) {
	if text == "" || len(text) > maxName {
		return 0, text == ""
	}
	body, ok := unseal([]byte(text), tx.Bucket(bucketNames).Get([]byte(text)))
	if !ok || len(body) != 4 {
		return 0, false
	}
	return be32(body), true
}

// nameOf is the text of an id; false if it is lost.
func nameOf(tx *bolt.Tx, id uint32) (string, bool) {
	if id == 0 {
		return "", true
	}
	key := binary.BigEndian.AppendUint32(nil, id)
	body, ok := unseal(key, tx.Bucket(bucketIDs).Get(key))
	return string(body), ok
}

// nameCache remembers names that readers met: a media type or an origin is one
// of few, and stands in each record. A name that was committed never changes; one
// that is not committed yet must not get here, since it may never be.
type nameCache struct {
	mu    sync.RWMutex
	texts map[uint32]string
	bytes int
}

// maxCached bounds the cache, in bytes; when it is full it starts anew.
const maxCached = 1 << 20

// text is nameOf for a transaction that reads.
func (c *nameCache) text(tx *bolt.Tx, id uint32) (string, bool) {
	c.mu.RLock()
	text, ok := c.texts[id]
	c.mu.RUnlock()
	if ok {
		return text, true
	}
	if text, ok = nameOf(tx, id); !ok {
		return "", false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	const each = 64 // a map's entry
	if c.bytes += len(text) + each; c.bytes > maxCached || c.texts == nil {
		c.texts, c.bytes = map[uint32]string{}, len(text)+each
	}
	c.texts[id] = text
	return text, true
}

// repoText is a repository as one name; no part of it can hold the separator.
func repoText(r oci.Repository) string { return r.Upstream + "\x00" + r.Name }

func repoOf(text string) (oci.Repository, bool) {
	up, name, ok := strings.Cut(text, "\x00")
	return oci.Repository{Upstream: up, Name: name}, ok
}
