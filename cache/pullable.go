package cache

import (
	"encoding/json"
	"strings"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// links is what a manifest of any kind refers to: an image's config and
// layers, an artifact's blobs, an index's manifests.
type links struct {
	Config    *link  `json:"config"`
	Layers    []link `json:"layers"`
	Blobs     []link `json:"blobs"`
	Manifests []link `json:"manifests"`
}

type link struct {
	MediaType string     `json:"mediaType"`
	Digest    oci.Digest `json:"digest"`
	Size      int64      `json:"size"`
}

func parseLinks(manifest []byte) (links, error) {
	var l links
	err := json.Unmarshal(manifest, &l)
	return l, err
}

// content lists what an image or artifact consists of, without what no
// registry serves (P 3.29).
func (l links) content() []link {
	all := append(append([]link{}, l.Layers...), l.Blobs...)
	if l.Config != nil {
		all = append(all, *l.Config)
	}
	var ls []link
	for _, b := range all {
		if !isForeign(b.MediaType) && !b.Digest.IsZero() {
			ls = append(ls, b)
		}
	}
	return ls
}

// isForeign tells of a layer that it lies elsewhere.
func isForeign(mediaType string) bool {
	return strings.Contains(mediaType, "foreign") || strings.Contains(mediaType, "nondistributable")
}

// maxNesting bounds indexes within indexes.
const maxNesting = 4

// pullable tells whether what a manifest names can be served without upstream:
// an image if all of it is here, an index if one of its children is (P 2.52,
// read for multi-platform images).
func (c *Cache) pullable(manifest []byte, depth int) bool {
	l, err := parseLinks(manifest)
	if err != nil || depth > maxNesting {
		return false
	}
	if len(l.Manifests) == 0 {
		for _, b := range l.content() {
			if _, here := c.find(b.Digest); !here && !c.provable(b.Digest, b.Size) {
				return false
			}
		}
		return true
	}
	for _, m := range l.Manifests {
		if m.Digest.IsZero() {
			continue
		}
		child, rec, here := c.small(m.Digest, maxManifest)
		if here && rec.Class == index.ClassManifest && c.pullable(child, depth+1) {
			return true
		}
	}
	return false
}
