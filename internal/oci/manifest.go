package oci

import (
	"encoding/json"
	"strings"
)

// Manifest is what a manifest of any kind names: an image's config and layers, an
// artifact's blobs, an index's manifests. All that it says is said by whoever made it.
type Manifest struct {
	Config    *Link  `json:"config"`
	Layers    []Link `json:"layers"`
	Blobs     []Link `json:"blobs"`
	Manifests []Link `json:"manifests"`
}

// Link is one thing that a manifest names; a zero digest if it does not say which.
type Link struct {
	MediaType string                                     `json:"mediaType"`
	Digest    Digest                                     `json:"digest"`
	Size      int64                                      `json:"size"`
	Platform  struct{ OS, Architecture, Variant string } `json:"platform"` // of an index's
}

// ParseManifest reads a manifest or an index. Its errors are those of encoding/json, also
// for a digest that is none.
func ParseManifest(b []byte) (m Manifest, err error) {
	err = json.Unmarshal(b, &m)
	return m, err
}

// Content lists what an image or artifact consists of, the config last, without what no
// registry serves (P 3.29) and what has no digest.
func (m Manifest) Content() []Link {
	var ls []Link
	for _, l := range m.parts() {
		if !IsForeign(l.MediaType) && !l.Digest.IsZero() {
			ls = append(ls, l)
		}
	}
	return ls
}

// Unnamed tells whether something is named without a digest.
func (m Manifest) Unnamed() bool {
	for _, l := range append(m.parts(), m.Manifests...) {
		if l.Digest.IsZero() {
			return true
		}
	}
	return false
}

func (m Manifest) parts() []Link {
	all := append(append([]Link{}, m.Layers...), m.Blobs...)
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	return all
}

// Descriptor is the link as it is passed around.
func (l Link) Descriptor() Descriptor {
	return Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}
}

// PlatformName is linux/arm64/v8; "?" if the link does not say.
func (l Link) PlatformName() string {
	p := strings.Trim(l.Platform.OS+"/"+l.Platform.Architecture+"/"+l.Platform.Variant, "/")
	if p == "" {
		return "?"
	}
	return p
}

// IsForeign tells of a layer by its media type that it lies elsewhere.
func IsForeign(mediaType string) bool {
	return strings.Contains(mediaType, "foreign") || strings.Contains(mediaType, "nondistributable")
}
