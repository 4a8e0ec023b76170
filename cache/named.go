package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"cistern/internal/oci"
)

// named is what a manifest of any kind names: nothing twice, and maxParts of each sort at
// most. It is what stays in memory of a manifest, and what is said of it where nothing that
// it says is believed: what cannot be read of it names nothing.
type named struct {
	Blobs     []sized // a config, layers, foreign ones too
	Manifests []sized
}

// sized is a digest and its bytes as a manifest says, 0 if it does not.
type sized struct {
	Digest  oci.Digest
	Size    int64
	Foreign bool // a layer that most registries do not serve (P 3.29)
}

// foreign stands behind the size of one, as text.
const foreign = "foreign"

// maxSaid bounds what is believed of a size that a manifest says.
const maxSaid = 1 << 50

// MarshalText is the digest and the size.
func (s sized) MarshalText() ([]byte, error) {
	text := fmt.Sprint(s.Digest, " ", s.Size)
	if s.Foreign {
		text += " " + foreign
	}
	return []byte(text), nil
}

// UnmarshalText reads what MarshalText wrote.
func (s *sized) UnmarshalText(b []byte) error {
	digest, rest, _ := strings.Cut(string(b), " ")
	size, kind, _ := strings.Cut(rest, " ")
	d, err := oci.ParseDigest(digest)
	n, nerr := strconv.ParseInt(size, 10, 64)
	s.Digest, s.Size, s.Foreign = d, min(max(0, n), maxSaid), kind == foreign
	return errors.Join(err, nerr)
}

// parseNamed reads a manifest or an index, also of schema 1.
func parseNamed(manifest []byte) named {
	var m struct{ Config, Layers, Blobs, FSLayers, Manifests sizedList }
	_ = json.Unmarshal(manifest, &m) // what it cannot read it leaves out
	var n named
	for _, l := range []sizedList{m.Config, m.Layers, m.Blobs, m.FSLayers} {
		n.Blobs = appendNew(n.Blobs, l)
	}
	n.Manifests = appendNew(nil, m.Manifests)
	return n
}

// appendNew adds what is not there yet.
func appendNew(to []sized, l sizedList) []sized {
	known := map[oci.Digest]bool{}
	for _, s := range to {
		known[s.Digest] = true
	}
	for _, s := range l {
		if !known[s.Digest] && len(to) < maxParts {
			known[s.Digest] = true
			to = append(to, s)
		}
	}
	return to
}

// sizedList reads an array of descriptors, or one of them, entry by entry: it takes no more
// memory than what it keeps.
type sizedList []sized

// UnmarshalJSON implements json.Unmarshaler. What is no descriptor is left out.
func (l *sizedList) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte("{")) {
		b = append(append([]byte("["), b...), ']')
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil
	}
	for dec.More() && len(*l) < maxParts {
		var e struct {
			Digest, BlobSum, MediaType string
			Size                       any
		}
		var wrong *json.UnmarshalTypeError
		if err := dec.Decode(&e); err != nil && !errors.As(err, &wrong) {
			return nil // it has been read once: it is JSON
		}
		size, _ := e.Size.(float64)
		for _, text := range []string{e.Digest, e.BlobSum} {
			if d, err := oci.ParseDigest(text); err == nil {
				*l = append(*l, sized{d, int64(min(max(0, size), maxSaid)), oci.IsForeign(e.MediaType)})
			}
		}
	}
	return nil
}

// namedBy reads what a manifest names, wherever it lies on the disk, proven or not: the
// bytes are. It is no use of it, waits for nobody, and changes nothing. An error says that
// it is here and cannot be read at the moment.
func (c *Cache) namedBy(d oci.Digest) (n named, here bool, err error) {
	rec, stored := c.findStored(d)
	if e, hot := c.hot.get(d); hot && stored {
		return parseNamed(e.data), true, nil
	}
	if stored && rec.Size > maxManifest {
		return named{}, true, nil
	}
	f, err := c.store.OpenFile(d)
	switch {
	case short(err):
		return named{}, false, fmt.Errorf("reading manifest %s: %w", d, err)
	case err != nil: // gone, or damaged, which whoever asks for it will see
		return named{}, false, nil
	}
	defer f.Close()
	if f.Size > maxManifest {
		return named{}, false, nil
	}
	data := make([]byte, f.Size)
	if _, err := io.ReadFull(f, data); err != nil || !d.Verify(data) {
		return named{}, false, nil
	}
	return parseNamed(data), true, nil
}

// closure is what manifests name, and what those name.
type closure struct {
	c      *Cache
	met    map[oci.Digest]bool // all of them
	opened map[oci.Digest]bool // the manifests among them that were read
}

func (c *Cache) newClosure() *closure {
	return &closure{c, map[oci.Digest]bool{}, map[oci.Digest]bool{}}
}

// add adds a manifest and all that it names. It fails if one is here and cannot be read.
func (r *closure) add(d oci.Digest) error {
	for todo := []oci.Digest{d}; len(todo) > 0; {
		d := todo[0]
		todo = todo[1:]
		if d.IsZero() || r.opened[d] {
			continue
		}
		r.met[d], r.opened[d] = true, true
		n, _, err := r.c.namedBy(d)
		if err != nil {
			return err
		}
		for _, b := range n.Blobs {
			r.met[b.Digest] = true
		}
		for _, m := range n.Manifests {
			todo = append(todo, m.Digest)
		}
	}
	return nil
}
