package image

import (
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A Spec describes an image: its layers' sizes, and which dialect it speaks.
type Spec struct {
	Name   string // repository and tag, without a host: "lab/six:1"
	Sizes  []int64
	Docker bool // Docker's media types instead of OCI's
	Zstd   bool // zstd layers instead of gzip ones
	// Platforms, if there are any, make it an index with one image for each.
	Platforms []v1.Platform
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// Set is what every client pulls: small and mixed images in both dialects, an index in both, and zstd.
func Set() []Spec {
	platforms := []v1.Platform{
		{OS: "linux", Architecture: "amd64"},
		{OS: "linux", Architecture: "arm64", Variant: "v8"},
		{OS: "linux", Architecture: "s390x"},
	}
	return []Spec{
		{Name: "library/tiny:1", Sizes: []int64{100}},
		{Name: "lab/six:1", Sizes: []int64{1, 3 * kib, 70 * kib, 300 * kib, 2 * mib, 12 * mib}},
		{Name: "lab/docker:1", Sizes: []int64{5 * kib, 3 * mib}, Docker: true},
		{Name: "lab/multi:1", Sizes: []int64{9 * kib, mib}, Platforms: platforms},
		{Name: "lab/multi-docker:1", Sizes: []int64{10 * kib, mib}, Docker: true, Platforms: platforms},
		{Name: "lab/zstd:1", Sizes: []int64{20 * kib, 2 * mib}, Zstd: true},
	}
}

// Big is an image whose layers have some hundred MB.
func Big() Spec { return Spec{Name: "lab/big:1", Sizes: []int64{110 * mib, 220 * mib}} }

// Push makes the image in the folder, pushes it to the registry at host ("127.0.0.1:10001"), and returns what
// a client of it must end up with.
func Push(dir, host string, s Spec, auth authn.Authenticator) (*Pushed, error) {
	ref, err := name.ParseReference(host+"/"+s.Name, name.Insecure)
	if err != nil {
		return nil, err
	}
	options := []remote.Option{remote.WithAuth(auth), remote.WithTransport(http.DefaultTransport)}
	p := &Pushed{Spec: s}
	if len(s.Platforms) == 0 {
		img, err := s.build(dir, v1.Platform{OS: "linux", Architecture: "amd64"})
		if err != nil {
			return nil, err
		}
		if err := remote.Write(ref, img, options...); err != nil {
			return nil, fmt.Errorf("push %s: %w", ref, err)
		}
		return p, p.add(img, true)
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: s.pick(types.OCIImageIndex, types.DockerManifestList)}
	for _, platform := range s.Platforms {
		img, err := s.build(dir, platform)
		if err != nil {
			return nil, err
		}
		if err := p.add(img, platform.Architecture == "amd64"); err != nil {
			return nil, err
		}
		child := ref.Context().Digest(p.Children[len(p.Children)-1])
		if err := remote.Write(child, img, options...); err != nil {
			return nil, fmt.Errorf("push %s: %w", child, err)
		}
		d, err := describe(img)
		if err != nil {
			return nil, err
		}
		d.Platform = &platform
		index.Manifests = append(index.Manifests, d)
	}
	doc, err := newDocument(index, index.MediaType)
	if err != nil {
		return nil, err
	}
	p.Digest = doc.digest()
	if err := remote.Put(ref, doc, options...); err != nil {
		return nil, fmt.Errorf("push %s: %w", ref, err)
	}
	return p, nil
}

func (s Spec) pick(oci, docker types.MediaType) types.MediaType {
	if s.Docker {
		return docker
	}
	return oci
}

func (s Spec) build(dir string, platform v1.Platform) (v1.Image, error) {
	img := mutate.MediaType(empty.Image, s.pick(types.OCIManifestSchema1, types.DockerManifestSchema2))
	img = mutate.ConfigMediaType(img, s.pick(types.OCIConfigJSON, types.DockerConfigJSON))
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		Created: v1.Time{Time: time.Unix(1_700_000_000, 0).UTC()},
		Config:  v1.Config{Cmd: []string{"/nothing"}, Labels: map[string]string{"lab": s.Name}},
		RootFS:  v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	media := s.pick(types.OCILayer, types.DockerLayer)
	if s.Zstd {
		media = types.OCILayerZStd
	}
	for i, size := range s.Sizes {
		layer, err := NewLayer(dir, fmt.Sprintf("%s %s layer %d", s.Name, platform.Architecture, i), size, media)
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: media, History: v1.History{CreatedBy: s.Name}})
		if err != nil {
			return nil, err
		}
	}
	return img, nil
}

// Pushed is an image as its origin holds it.
type Pushed struct {
	Spec
	Digest   string   // of what the tag names: the manifest or the index
	Image    string   // of the manifest of linux/amd64; equal to Digest where there is no index
	Config   string   // of the config of linux/amd64
	Layers   []string // of linux/amd64, compressed
	DiffIDs  []string // of linux/amd64
	Children []string // of all platforms' manifests
	Bytes    int64    // config and layers of linux/amd64
}

// Blobs is config and layers of linux/amd64.
func (p *Pushed) Blobs() []string { return append([]string{p.Config}, p.Layers...) }

func (p *Pushed) add(img v1.Image, native bool) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	p.Children = append(p.Children, digest.String())
	if !native {
		return nil
	}
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	p.Digest, p.Image, p.Config, p.Bytes = digest.String(), digest.String(), m.Config.Digest.String(), m.Config.Size
	for i, l := range m.Layers {
		p.Layers = append(p.Layers, l.Digest.String())
		p.DiffIDs = append(p.DiffIDs, config.RootFS.DiffIDs[i].String())
		p.Bytes += l.Size
	}
	return nil
}
