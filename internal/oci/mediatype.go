package oci

import "strings"

// Media types of manifests that real registries serve (P 1.7, 3.11, 3.13).
const (
	MediaTypeOCIIndex            = "application/vnd.oci.image.index.v1+json"
	MediaTypeOCIManifest         = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeDockerList          = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	MediaTypeDockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	MediaTypeOctetStream         = "application/octet-stream"
	MediaTypeJSON                = "application/json"
)

// IsIndex tells whether a media type is that of a list of manifests.
func IsIndex(mediaType string) bool {
	return mediaType == MediaTypeOCIIndex || mediaType == MediaTypeDockerList
}

// IsSchema1 tells whether a media type is one of Docker's schema 1, whose
// digest is not that of its bytes (P 3.13).
func IsSchema1(mediaType string) bool {
	return mediaType == MediaTypeDockerSchema1 || mediaType == MediaTypeDockerSchema1Signed
}

// Accepts tells whether an Accept header, given as its lines, admits a media
// type. No header at all admits everything. The lines are a set: clients send
// them in any order and split in any way (P 1.7); quality values other than 0
// are all the same here, since there is only one stored form to choose.
func Accepts(lines []string, mediaType string) bool {
	if len(lines) == 0 {
		return true
	}
	kind, _, _ := strings.Cut(mediaType, "/")
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(item, ";")
			name = strings.ToLower(strings.TrimSpace(name))
			if name != mediaType && name != "*/*" && name != kind+"/*" {
				continue
			}
			if !refused(params) {
				return true
			}
		}
	}
	return false
}

// refused tells whether the parameters of an Accept item hold q=0.
func refused(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(k, "q") && strings.Trim(v, "0.") == "" && v != "" {
			return true
		}
	}
	return false
}
