package upstream

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"cistern/internal/oci"
)

// document is what a manifest's own bytes say about its kind.
type document struct {
	mediaType string
	has       map[string]bool // of the members that tell kinds apart: present and not null
	version   string          // schemaVersion as written
}

// inspect reads a manifest's outermost object and settles its media type:
// header is upstream's Content-Type. A document whose meaning depends on who
// reads it is refused: two kinds in one, a mediaType that contradicts the
// header, a member twice or in another case (Go's decoder ignores case).
func inspect(b []byte, header string) (document, error) {
	d, err := scan(b)
	if err != nil {
		return d, err
	}
	own := d.mediaType
	switch {
	case len(header) > maxMediaType:
		return d, fmt.Errorf("has a media type of %d bytes in its header", len(header))
	case !generic(header) && own != "" && own != header:
		return d, fmt.Errorf("says mediaType %s, and the header %s", oci.Quote(own), oci.Quote(header))
	case !generic(header):
		d.mediaType = header
	case own == "":
		d.mediaType = d.guess(header)
	}
	return d, d.consistent()
}

// maxMediaType is twice 127 and a slash (RFC 6838, section 4.2).
const maxMediaType = 255

// generic media types say nothing about what a manifest is (P 3.10).
func generic(t string) bool {
	switch t {
	case "", "text/plain", "text/html", oci.MediaTypeOctetStream, oci.MediaTypeJSON, "binary/octet-stream":
		return true
	}
	return false
}

// members tell the kinds of manifest apart.
func members() []string {
	return []string{"mediaType", "schemaVersion", "manifests", "config", "layers", "fsLayers", "signatures"}
}

// scan reads the members of the outermost object.
func scan(b []byte) (document, error) {
	d := document{has: map[string]bool{}}
	if !json.Valid(b) || len(bytes.TrimSpace(b)) == 0 || bytes.TrimSpace(b)[0] != '{' {
		return d, errors.New("not a JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if _, err := dec.Token(); err != nil { // '{'
		return d, fmt.Errorf("not JSON: %w", err)
	}
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return d, fmt.Errorf("not JSON: %w", err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return d, fmt.Errorf("not JSON: %w", err)
		}
		if err := d.member(fmt.Sprint(key), value, seen); err != nil {
			return d, err
		}
	}
	return d, nil
}

func (d *document) member(key string, value json.RawMessage, seen map[string]bool) error {
	for _, m := range members() {
		if !strings.EqualFold(m, key) {
			continue
		}
		if m != key || seen[m] {
			return fmt.Errorf("has %s twice or in another case", m)
		}
		seen[m] = true
		d.has[m] = string(value) != "null"
		switch m {
		case "mediaType":
			if json.Unmarshal(value, &d.mediaType) != nil || len(d.mediaType) > maxMediaType || !headerSafe(d.mediaType) {
				return errors.New("has a mediaType that is none")
			}
		case "schemaVersion":
			d.version = string(value)
		}
	}
	return nil
}

// guess derives the type of a document that does not name it.
func (d *document) guess(header string) string {
	switch {
	case d.has["manifests"]:
		return oci.MediaTypeOCIIndex
	case d.version == "1" && d.has["signatures"]:
		return oci.MediaTypeDockerSchema1Signed
	case d.version == "1":
		return oci.MediaTypeDockerSchema1
	case d.has["config"], d.has["layers"]:
		return oci.MediaTypeOCIManifest
	case header == "":
		return oci.MediaTypeOctetStream
	}
	return header
}

// consistent refuses members that do not belong to the document's type.
func (d *document) consistent() error {
	list, image, old := d.has["manifests"], d.has["config"] || d.has["layers"], d.has["fsLayers"]
	bad := list && (image || old) || image && old
	switch t := d.mediaType; {
	case oci.IsIndex(t):
		bad = bad || image || old
	case t == oci.MediaTypeOCIManifest, t == oci.MediaTypeDockerManifest:
		bad = bad || list || old
	case oci.IsSchema1(t):
		bad = bad || list || image
	}
	if bad {
		return fmt.Errorf("is ambiguous: its members do not belong to one kind of manifest (as %s)", oci.Quote(d.mediaType))
	}
	return nil
}

// schema1Payload gives the bytes that a signed schema 1 manifest's digest is
// over: the document without its signatures, as the first one describes.
func schema1Payload(b []byte) ([]byte, error) {
	var doc struct {
		Signatures []struct {
			Protected string `json:"protected"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(b, &doc); err != nil || len(doc.Signatures) == 0 {
		return nil, errors.New("schema 1: no signature")
	}
	header, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(doc.Signatures[0].Protected, "="))
	if err != nil {
		return nil, fmt.Errorf("schema 1: protected header: %w", err)
	}
	var format struct {
		FormatLength int    `json:"formatLength"`
		FormatTail   string `json:"formatTail"`
	}
	if err := json.Unmarshal(header, &format); err != nil {
		return nil, fmt.Errorf("schema 1: protected header: %w", err)
	}
	tail, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(format.FormatTail, "="))
	if err != nil || format.FormatLength < 0 || format.FormatLength > len(b) {
		return nil, errors.New("schema 1: the protected header does not fit the document")
	}
	return append(b[:format.FormatLength:format.FormatLength], tail...), nil
}
