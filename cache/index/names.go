package index

import (
	"encoding/binary"
	"strings"

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

// repoText is a repository as one name; no part of it can hold the separator.
func repoText(r oci.Repository) string { return r.Upstream + "\x00" + r.Name }

func repoOf(text string) (oci.Repository, bool) {
	up, name, ok := strings.Cut(text, "\x00")
	return oci.Repository{Upstream: up, Name: name}, ok
}
