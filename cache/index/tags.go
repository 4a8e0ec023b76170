package index

import (
	"bytes"
	"encoding/binary"
	"iter"
	"time"

	bolt "go.etcd.io/bbolt"

	"cistern/internal/oci"
)

// Tag looks up what a tag last resolved to.
func (x *Index) Tag(r oci.Reference) (t Tag, found bool, err error) {
	err = x.view("tag", func(tx *bolt.Tx) error {
		id, ok := nameID(tx, repoText(r.Repository))
		if !ok {
			return nil
		}
		key := tagKey(id, r.Tag)
		if v := tx.Bucket(bucketTags).Get(key); v != nil {
			t, found = x.tag(tx, key, v)
		}
		return nil
	})
	return t, found, err
}

// tag decodes an entry of tags; a damaged one is noted.
func (x *Index) tag(tx *bolt.Tx, key, value []byte) (Tag, bool) {
	s, ok := decodeTag(key, value)
	mediaType, ok1 := x.names.text(tx, s.mediaType)
	var repo oci.Repository
	ok2 := false
	if len(key) > 4 {
		text, _ := x.names.text(tx, be32(key))
		repo, ok2 = repoOf(text)
	}
	if !ok || !ok1 || !ok2 {
		x.noteBad(bucketTags, key)
		return Tag{}, false
	}
	return s.full(repo, string(key[4:]), mediaType), true
}

// full adds the names.
func (t storedTag) full(repo oci.Repository, name, mediaType string) Tag {
	return Tag{
		Reference: oci.Reference{Repository: repo, Tag: name},
		Target:    oci.Descriptor{MediaType: mediaType, Digest: t.target, Size: t.size},
		Checked:   timeOf(t.checked), Changed: timeOf(t.changed), Public: t.public,
	}
}

// tagsPerPage is how many tags a walk reads in one transaction: the consumer
// runs outside it and may take its time, or call Apply.
const tagsPerPage = 256

// TagsOf yields the tags of one repository, by name; after an error it ends.
func (x *Index) TagsOf(repo oci.Repository) iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) {
		var prefix []byte
		err := x.view("tags", func(tx *bolt.Tx) error {
			if id, ok := nameID(tx, repoText(repo)); ok {
				prefix = binary.BigEndian.AppendUint32(nil, id)
			}
			return nil
		})
		if err != nil {
			yield(Tag{}, err)
		} else if prefix != nil {
			x.walkTags(prefix, yield)
		}
	}
}

// Tags yields all tags, those of a repository together; after an error it ends.
// It sees changes made while it runs, or not.
func (x *Index) Tags() iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) { x.walkTags(nil, yield) }
}

func (x *Index) walkTags(prefix []byte, yield func(Tag, error) bool) {
	for next := prefix; ; {
		var page []Tag
		more := false
		err := x.view("tags", func(tx *bolt.Tx) error {
			c := tx.Bucket(bucketTags).Cursor()
			for k, v := c.Seek(next); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
				if len(page) == tagsPerPage {
					next, more = bytes.Clone(k), true
					return nil
				}
				if t, ok := x.tag(tx, k, v); ok {
					page = append(page, t)
				}
			}
			return nil
		})
		for _, t := range page {
			if !yield(t, nil) {
				return
			}
		}
		if err != nil {
			yield(Tag{}, err)
		}
		if err != nil || !more {
			return
		}
	}
}

// Holders gives the repositories under which upstream is known to serve d.
func (x *Index) Holders(d oci.Digest) (all []oci.Repository, err error) {
	if d.IsZero() {
		return nil, nil
	}
	err = x.view("holders", func(tx *bolt.Tx) error {
		all = nil
		prefix := digestKey(d)
		c := tx.Bucket(bucketGrants).Cursor()
		for key, _ := c.Seek(prefix); bytes.HasPrefix(key, prefix); key, _ = c.Next() {
			if len(key) != len(prefix)+4 {
				continue // bad, or of a longer digest
			}
			text, _ := nameOf(tx, be32(key[len(prefix):]))
			if repo, ok := repoOf(text); ok {
				all = append(all, repo)
			}
		}
		return nil
	})
	return all, err
}

// Granted tells whether upstream is known to serve d under repo.
func (x *Index) Granted(repo oci.Repository, d oci.Digest) (bool, error) {
	at, err := x.GrantedAt(repo, d)
	return !at.IsZero(), err
}

// GrantedAt is when that was last learnt; the zero time if it is not known.
func (x *Index) GrantedAt(repo oci.Repository, d oci.Digest) (at time.Time, err error) {
	if d.IsZero() {
		return time.Time{}, nil
	}
	err = x.view("grant", func(tx *bolt.Tx) error {
		id, ok := nameID(tx, repoText(repo))
		if !ok {
			return nil
		}
		key := grantKey(d, id)
		v := tx.Bucket(bucketGrants).Get(key)
		if v == nil {
			return nil
		}
		n, ok := decodeGrant(key, v)
		if !ok {
			x.noteBad(bucketGrants, key)
			return nil
		}
		at = timeOf(max(n, 1)) // it is known, even if nobody knew the time
		return nil
	})
	return at, err
}
