package image

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Artifact types as the tests name them.
const (
	ArtifactType = "application/vnd.lab.sbom"
	emptyConfig  = "application/vnd.oci.empty.v1+json"
)

// PushArtifact pushes an artifact (empty config, one small layer, an artifact type) under the name
// ("lab/tiny:sbom"), whose subject is what the registry holds under the other name, and returns its digest. A registry
// without the referrers API gets the fallback tag as well.
func PushArtifact(host, artifact, subject string) (string, error) {
	of, err := name.ParseReference(host+"/"+subject, name.Insecure)
	if err != nil {
		return "", err
	}
	desc, err := remote.Head(of)
	if err != nil {
		return "", err
	}
	ref, err := name.ParseReference(host+"/"+artifact, name.Insecure)
	if err != nil {
		return "", err
	}
	config := static.NewLayer([]byte("{}"), emptyConfig)
	layer := static.NewLayer([]byte(`{"made by":"the lab"}`), ArtifactType+"+json")
	m := struct {
		v1.Manifest
		ArtifactType string `json:"artifactType"`
	}{v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Subject: desc}, ArtifactType}
	for _, l := range []v1.Layer{config, layer} {
		if err := remote.WriteLayer(ref.Context(), l); err != nil {
			return "", fmt.Errorf("push %s: %w", ref, err)
		}
		d, err := describe(l)
		if err != nil {
			return "", err
		}
		m.Layers = append(m.Layers, d)
	}
	m.Config, m.Layers = m.Layers[0], m.Layers[1:]
	doc, err := newDocument(m, m.MediaType)
	if err != nil {
		return "", err
	}
	if err := remote.Put(ref, doc); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return doc.digest(), nil
}

// document is a manifest or index as it is pushed: nothing in it is recomputed.
type document struct {
	raw   []byte
	media types.MediaType
}

func newDocument(v any, media types.MediaType) (document, error) {
	raw, err := json.Marshal(v)
	return document{raw: raw, media: media}, err
}

// RawManifest is the document's text.
func (d document) RawManifest() ([]byte, error) { return d.raw, nil }

// MediaType is what the document is pushed as.
func (d document) MediaType() (types.MediaType, error) { return d.media, nil }

func (d document) digest() string { return fmt.Sprintf("sha256:%x", sha256.Sum256(d.raw)) }

// described is what an image and a layer have in common.
type described interface {
	Digest() (v1.Hash, error)
	Size() (int64, error)
	MediaType() (types.MediaType, error)
}

func describe(x described) (v1.Descriptor, error) {
	var d v1.Descriptor
	var err error
	if d.Digest, err = x.Digest(); err != nil {
		return d, err
	}
	if d.Size, err = x.Size(); err != nil {
		return d, err
	}
	d.MediaType, err = x.MediaType()
	return d, err
}
