package layout

import (
	"encoding/json"
	"errors"
	"fmt"

	"cistern/internal/oci"
)

// The files of a layout beside its blobs.
const (
	markName  = "oci-layout"
	indexName = "index.json"
	mark      = `{"imageLayoutVersion":"1.0.0"}`
)

// Annotations in index.json: the two that tools find an image by, and ours.
const (
	noteName         = "org.opencontainers.image.ref.name"
	noteContainerd   = "io.containerd.image.name"
	noteOriginal     = "io.cistern.original.digest"
	noteOriginalType = "io.cistern.original.mediatype"
	notePrivate      = "io.cistern.private"
	noteSince        = "io.cistern.since" // digest of the earlier archive's index.json
)

// maxIndex bounds index.json, in bytes.
const maxIndex = 64 << 20

// Image is one image of a layout.
type Image struct {
	Name     string         // docker.io/library/nginx:1.27; "": it says none
	Target   oci.Descriptor // what tools read, all of which is there
	Original oci.Descriptor // what the name means upstream, of which platforms may be missing
	Private  bool           // it was obtained with credentials
}

// Index is a layout's index.json.
type Index struct {
	Images []Image
	Since  []oci.Digest // the archives without which this one is not whole, by their index.json
}

type indexFile struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []entry           `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type entry struct {
	MediaType   string            `json:"mediaType"`
	Digest      oci.Digest        `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func (x Index) encode() ([]byte, error) {
	f := indexFile{SchemaVersion: 2, MediaType: oci.MediaTypeOCIIndex, Manifests: []entry{}}
	for _, i := range x.Images {
		notes := map[string]string{noteName: i.Name, noteContainerd: i.Name}
		if i.Original != i.Target {
			notes[noteOriginal], notes[noteOriginalType] = i.Original.Digest.String(), i.Original.MediaType
		}
		if i.Private {
			notes[notePrivate] = "true"
		}
		f.Manifests = append(f.Manifests, entry{i.Target.MediaType, i.Target.Digest, i.Target.Size, notes})
	}
	for n, d := range x.Since {
		if f.Annotations == nil {
			f.Annotations = map[string]string{}
		}
		f.Annotations[sinceNote(n)] = d.String()
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", indexName, err)
	}
	return b, nil
}

// sinceNote is the annotation of the nth archive that one builds on.
func sinceNote(n int) string {
	if n == 0 {
		return noteSince
	}
	return fmt.Sprintf("%s.%d", noteSince, n+1)
}

func decodeIndex(b []byte) (x Index, err error) {
	var f indexFile
	if err := json.Unmarshal(b, &f); err != nil {
		return x, fmt.Errorf("%s: %w", indexName, err)
	}
	if f.SchemaVersion != 2 || f.Manifests == nil {
		return x, errors.New(indexName + " is not that of an OCI image layout")
	}
	for _, e := range f.Manifests {
		i := Image{Name: e.Annotations[noteContainerd], Private: e.Annotations[notePrivate] == "true",
			Target: oci.Descriptor{MediaType: e.MediaType, Digest: e.Digest, Size: e.Size}}
		if e.Digest.IsZero() || e.Size < 0 {
			return x, errors.New(indexName + " names a manifest without its digest or size")
		}
		if i.Name == "" {
			i.Name = e.Annotations[noteName]
		}
		i.Original = i.Target
		if s := e.Annotations[noteOriginal]; s != "" {
			d, err := oci.ParseDigest(s)
			if err != nil {
				return x, fmt.Errorf("%s: %w", indexName, err)
			}
			i.Original = oci.Descriptor{MediaType: e.Annotations[noteOriginalType], Digest: d, Size: -1}
		}
		x.Images = append(x.Images, i)
	}
	for n := 0; f.Annotations[sinceNote(n)] != ""; n++ {
		d, err := oci.ParseDigest(f.Annotations[sinceNote(n)])
		if err != nil {
			return x, fmt.Errorf("%s: %w", indexName, err)
		}
		x.Since = append(x.Since, d)
	}
	return x, nil
}

// blobName is where a blob lies in a layout.
func blobName(d oci.Digest) string { return "blobs/" + d.Algorithm() + "/" + d.Hex() }
