package layout

import (
	"encoding/json"
	"errors"
	"fmt"

	"cistern/internal/oci"
)

// Document is a manifest with its bytes.
type Document struct {
	oci.Descriptor
	Bytes []byte
}

// Portable gives what stands for a manifest where other tools read the layout: itself
// the last, and before it the children of which that is so. It is the manifest itself if
// it is OCI's and all that it names is at hand. Else it is made anew: skopeo reads no
// manifest of Docker's media types in a layout, and nobody an index of which parts are
// missing. nil: nothing of it is at hand.
func Portable(root oci.Descriptor, manifests Manifests) ([]Document, error) {
	p := porter{manifests: manifests, of: map[oci.Digest]*oci.Descriptor{}}
	if now, err := p.manifest(root, 0); err != nil || now == nil {
		return nil, err
	}
	return p.docs, nil
}

type porter struct {
	manifests Manifests
	of        map[oci.Digest]*oci.Descriptor // what stands for those that were looked at
	docs      []Document
}

// manifest tells what stands for a manifest; nil: nothing of it is at hand.
func (p *porter) manifest(d oci.Descriptor, depth int) (*oci.Descriptor, error) {
	if now, known := p.of[d.Digest]; known {
		return now, nil
	}
	doc, err := p.port(d, depth)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if doc == nil {
		p.of[d.Digest] = nil
		return nil, nil
	}
	p.of[d.Digest] = &doc.Descriptor
	p.docs = append(p.docs, *doc)
	return &doc.Descriptor, nil
}

func (p *porter) port(d oci.Descriptor, depth int) (*Document, error) {
	b, err := p.manifests(d.Digest)
	if err != nil || b == nil || depth > maxNesting {
		return nil, err
	}
	var m fields
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	here, made, err := p.children(m, depth)
	if err != nil || here == 0 && m["manifests"] != nil {
		return nil, err
	}
	if now := ociType(d.MediaType); now != d.MediaType {
		made = true
		if d.MediaType, err = now, m.retype(now); err != nil {
			return nil, err
		}
	}
	if made {
		if b, err = json.Marshal(m); err != nil {
			return nil, err
		}
		d.Digest = oci.FromBytes(b)
	}
	d.Size = int64(len(b))
	return &Document{d, b}, nil
}

// children makes those of an index portable, and leaves out those that are not at hand. It
// tells how many are left, and whether that has changed the index.
func (p *porter) children(m fields, depth int) (here int, made bool, err error) {
	if m["manifests"] == nil {
		return 0, false, nil
	}
	var all, kept []fields
	var links []oci.Link
	if err := errors.Join(json.Unmarshal(m["manifests"], &all), json.Unmarshal(m["manifests"], &links)); err != nil {
		return 0, false, err
	}
	for i, child := range all {
		now, err := p.manifest(links[i].Descriptor(), depth+1)
		if err != nil {
			return 0, false, err
		}
		if now == nil {
			made = true
			continue
		}
		if now.Digest != links[i].Digest {
			made = true
			child["digest"], child["mediaType"], child["size"] = text(now.Digest.String()), text(now.MediaType), fmt.Append(nil, now.Size)
		}
		kept = append(kept, child)
	}
	if made {
		m["manifests"], err = json.Marshal(kept)
	}
	return len(kept), made, err
}

// fields are those of a manifest or descriptor, each as it is but for those that change.
type fields map[string]json.RawMessage

// retype gives a manifest of Docker's OCI's media types.
func (m fields) retype(now string) error {
	m["mediaType"] = text(now)
	if m["config"] != nil {
		var config fields
		if err := json.Unmarshal(m["config"], &config); err != nil {
			return err
		}
		if err := retypeAll(config); err != nil {
			return err
		}
		m["config"], _ = json.Marshal(config) // it was read from JSON
	}
	if m["layers"] != nil {
		var layers []fields
		if err := json.Unmarshal(m["layers"], &layers); err != nil {
			return err
		}
		if err := retypeAll(layers...); err != nil {
			return err
		}
		m["layers"], _ = json.Marshal(layers)
	}
	return nil
}

func retypeAll(descriptors ...fields) error {
	for _, d := range descriptors {
		var was string
		if d["mediaType"] == nil {
			continue
		}
		if err := json.Unmarshal(d["mediaType"], &was); err != nil {
			return err
		}
		d["mediaType"] = text(ociType(was))
	}
	return nil
}

func text(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string always can be
	return b
}

// ociType is what OCI calls what Docker has another media type for. The bytes of configs
// and layers are the same.
func ociType(mediaType string) string {
	switch mediaType {
	case oci.MediaTypeDockerList:
		return oci.MediaTypeOCIIndex
	case oci.MediaTypeDockerManifest:
		return oci.MediaTypeOCIManifest
	case "application/vnd.docker.container.image.v1+json":
		return "application/vnd.oci.image.config.v1+json"
	case "application/vnd.docker.image.rootfs.diff.tar":
		return "application/vnd.oci.image.layer.v1.tar"
	case "application/vnd.docker.image.rootfs.diff.tar.gzip":
		return "application/vnd.oci.image.layer.v1.tar+gzip"
	case "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return "application/vnd.oci.image.layer.v1.tar+zstd"
	case "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	}
	return mediaType
}
