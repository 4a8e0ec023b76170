package origin

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// AnnotationCRC names the annotation of a layer's descriptor that holds the
// CRC-32C of the blob, in decimal.
const AnnotationCRC = "dev.cistern.bench.crc32c"

const (
	maxLayers    = 20_000
	maxImageSize = 64 << 30
)

// shapeOf matches one part of a repository's last component: count x size unit.
var shapeOf = regexp.MustCompile(`^([0-9]{1,5})x([0-9]{1,6})(b|k|m|g)$`)

// LayerSizes reads the shape of an image from its repository's last component:
// "6x48m" is six layers of 48 MiB, "1x30m-2x512k" one of 30 MiB and two of 512 KiB.
// So every client can name an image of any shape and any tag of it, and no
// image has to be made beforehand. False where the name is no shape.
func LayerSizes(repository string) ([]int64, bool) {
	last := repository[strings.LastIndex(repository, "/")+1:]
	var sizes []int64
	var total int64
	for part := range strings.SplitSeq(last, "-") {
		m := shapeOf.FindStringSubmatch(part)
		if m == nil {
			return nil, false
		}
		count, err1 := strconv.Atoi(m[1])
		size, err2 := strconv.ParseInt(m[2], 10, 64)
		if err1 != nil || err2 != nil || count == 0 || size == 0 {
			return nil, false
		}
		size <<= map[string]uint{"b": 0, "k": 10, "m": 20, "g": 30}[m[3]]
		total += int64(count) * size
		if len(sizes)+count > maxLayers || size > maxImageSize || total > maxImageSize {
			return nil, false
		}
		for range count {
			sizes = append(sizes, size)
		}
	}
	return sizes, true
}

// image is a manifest (or index) with all that it refers to.
type image struct {
	manifest *Blob
	parts    []*Blob // config and layers, or the children of an index with theirs
}

// image computes repository:tag. A tag that begins with "multi" is an index of
// two platforms. False where the repository's name is no shape.
func (g *generator) image(repository, tag string) (image, bool, error) {
	sizes, ok := LayerSizes(repository)
	if !ok {
		return image{}, false, nil
	}
	if strings.HasPrefix(tag, "multi") {
		im, err := g.index(repository, tag, sizes)
		return im, true, err
	}
	im, err := g.single(repository, tag, "amd64", sizes)
	return im, true, err
}

func (g *generator) single(repository, tag, arch string, sizes []int64) (image, error) {
	var im image
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	config := v1.Image{Platform: v1.Platform{Architecture: arch, OS: "linux"}, RootFS: v1.RootFS{Type: "layers"}}
	config.Config.Labels = map[string]string{"image": repository + ":" + tag}
	for i, size := range sizes {
		b, err := g.layer(fmt.Sprintf("%s:%s/%s/%d", repository, tag, arch, i), size)
		if err != nil {
			return im, err
		}
		im.parts = append(im.parts, b)
		m.Layers = append(m.Layers, descriptor(b, v1.MediaTypeImageLayer))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.Digest(b.Digest))
	}
	data, err := json.Marshal(config)
	if err != nil {
		return im, fmt.Errorf("encoding the config of %s:%s: %w", repository, tag, err)
	}
	c := bytesBlob(data, "")
	im.parts = append(im.parts, c)
	m.Config = descriptor(c, v1.MediaTypeImageConfig)
	if data, err = json.Marshal(m); err != nil {
		return im, fmt.Errorf("encoding the manifest of %s:%s: %w", repository, tag, err)
	}
	im.manifest = bytesBlob(data, m.MediaType)
	return im, nil
}

func (g *generator) index(repository, tag string, sizes []int64) (image, error) {
	var im image
	idx := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, arch := range []string{"amd64", "arm64"} {
		child, err := g.single(repository, tag, arch, sizes)
		if err != nil {
			return im, err
		}
		d := descriptor(child.manifest, v1.MediaTypeImageManifest)
		d.Platform = &v1.Platform{Architecture: arch, OS: "linux"}
		idx.Manifests = append(idx.Manifests, d)
		im.parts = append(append(im.parts, child.manifest), child.parts...)
	}
	data, err := json.Marshal(idx)
	if err != nil {
		return im, fmt.Errorf("encoding the index %s:%s: %w", repository, tag, err)
	}
	im.manifest = bytesBlob(data, idx.MediaType)
	return im, nil
}

func descriptor(b *Blob, mediaType string) v1.Descriptor {
	return v1.Descriptor{
		MediaType: mediaType, Digest: digest.Digest(b.Digest), Size: b.Size,
		Annotations: map[string]string{AnnotationCRC: strconv.FormatUint(uint64(b.CRC), 10)},
	}
}
