package origin

import (
	"slices"
	"sync"
)

// library holds the images that somebody asked for. Content comes into being
// with the first request for its manifest; before, its digests are unknown, as
// those of a registry to which nothing was pushed. Safe for concurrent use.
type library struct {
	gen *generator

	making sync.Mutex // held while an image is computed: one at a time

	mu     sync.RWMutex
	tags   map[string]map[string]*Blob // repository, tag -> manifest; guarded by mu
	blobs  map[string]*Blob            // repository@digest; guarded by mu
	manifs map[string]*Blob            // repository@digest of manifests; guarded by mu
}

func newLibrary(g *generator) *library {
	return &library{gen: g, tags: map[string]map[string]*Blob{}, blobs: map[string]*Blob{}, manifs: map[string]*Blob{}}
}

// manifest returns the manifest of repository:tag, nil where there is none.
func (l *library) manifest(repository, tag string) (*Blob, error) {
	if b := l.tagged(repository, tag); b != nil {
		return b, nil
	}
	l.making.Lock()
	defer l.making.Unlock()
	if b := l.tagged(repository, tag); b != nil {
		return b, nil
	}
	im, ok, err := l.gen.image(repository, tag)
	if err != nil || !ok {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range append(im.parts, im.manifest) {
		if b.MediaType != "" {
			l.manifs[repository+"@"+b.Digest] = b
		} else {
			l.blobs[repository+"@"+b.Digest] = b
		}
	}
	if l.tags[repository] == nil {
		l.tags[repository] = map[string]*Blob{}
	}
	l.tags[repository][tag] = im.manifest
	return im.manifest, nil
}

func (l *library) tagged(repository, tag string) *Blob {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.tags[repository][tag]
}

func (l *library) manifestByDigest(repository, digest string) *Blob {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.manifs[repository+"@"+digest]
}

func (l *library) blob(repository, digest string) *Blob {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.blobs[repository+"@"+digest]
}

// list returns the tags made so far, sorted; nil where the repository is unknown.
func (l *library) list(repository string) []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	tags := make([]string, 0, len(l.tags[repository]))
	for t := range l.tags[repository] {
		tags = append(tags, t)
	}
	slices.Sort(tags)
	return tags
}
