package layout

import (
	"errors"
	"fmt"
	"slices"

	"cistern/internal/oci"
)

const (
	// MaxManifest is the largest manifest that is read, in bytes.
	MaxManifest = 8 << 20
	// maxNesting bounds indexes within indexes.
	maxNesting = 4
	// maxPieces bounds what one image consists of.
	maxPieces = 1 << 16
)

// Piece is a blob or a manifest that an image consists of.
type Piece struct {
	oci.Descriptor
	Manifest bool
}

// Manifests gives the bytes of a manifest, nil if it is not at hand.
type Manifests func(d oci.Digest) ([]byte, error)

// Pieces lists what a manifest consists of, each piece once, and what names others
// after these. Of an index, children that are not at hand are left out where sparse is
// set, down to one; else they are an error.
func Pieces(root oci.Descriptor, sparse bool, manifests Manifests) ([]Piece, error) {
	l := lister{manifests: manifests, sparse: sparse, seen: map[oci.Digest]bool{}, whole: map[oci.Digest]bool{}}
	here, err := l.manifest(root, 0)
	if err == nil && !here {
		err = fmt.Errorf("manifest %s is missing", root.Digest)
	}
	return l.pieces, err
}

type lister struct {
	manifests Manifests
	sparse    bool
	seen      map[oci.Digest]bool // what is among pieces
	whole     map[oci.Digest]bool // of each manifest that was looked at: who names one twice gains nothing
	pieces    []Piece
}

func (l *lister) add(d oci.Descriptor, manifest bool) error {
	if l.seen[d.Digest] {
		return nil
	}
	if len(l.pieces) == maxPieces {
		return fmt.Errorf("an image of more than %d pieces", maxPieces)
	}
	l.seen[d.Digest] = true
	l.pieces = append(l.pieces, Piece{d, manifest})
	return nil
}

// manifest lists a manifest; false if it, or all that it names, is not at hand.
func (l *lister) manifest(d oci.Descriptor, depth int) (whole bool, err error) {
	whole, known := l.whole[d.Digest]
	if !known {
		whole, err = l.look(d, depth)
		l.whole[d.Digest] = whole
	}
	return whole, err
}

func (l *lister) look(d oci.Descriptor, depth int) (whole bool, err error) {
	if depth > maxNesting {
		return false, fmt.Errorf("manifest %s: more than %d indexes within each other", d.Digest, maxNesting)
	}
	b, err := l.manifests(d.Digest)
	if err != nil || b == nil {
		return false, err
	}
	if d.Size >= 0 && d.Size != int64(len(b)) {
		return false, fmt.Errorf("manifest %s has %d bytes, and is said to have %d", d.Digest, len(b), d.Size)
	}
	d.Size = int64(len(b))
	m, err := parse(b)
	if err != nil {
		return false, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	children := 0
	for _, child := range m.Manifests {
		here, err := l.manifest(child.Descriptor(), depth+1)
		switch {
		case err != nil:
			return false, err
		case here:
			children++
		case !l.sparse:
			return false, fmt.Errorf("manifest %s is missing, which index %s names", child.Digest, d.Digest)
		}
	}
	if len(m.Manifests) > 0 && children == 0 {
		return false, nil
	}
	for _, b := range m.Content() {
		if err := l.add(b.Descriptor(), false); err != nil {
			return false, err
		}
	}
	return true, l.add(d, true)
}

// parse reads a manifest that names all of what it names by digest and size.
func parse(b []byte) (m oci.Manifest, err error) {
	if m, err = oci.ParseManifest(b); err != nil {
		return m, err
	}
	sizeless := func(l oci.Link) bool { return l.Size < 0 }
	if m.Unnamed() || slices.ContainsFunc(m.Content(), sizeless) || slices.ContainsFunc(m.Manifests, sizeless) {
		return m, errors.New("it names something without a digest or a size")
	}
	return m, nil
}
