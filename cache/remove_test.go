package cache

import (
	"testing"

	"cistern/internal/oci"
)

// byDigest pulls an image under a repository by its digest alone.
func (s *shelf) byDigest(name string, sizes []int, more ...oci.Digest) (manifest oci.Digest, layers []oci.Digest) {
	s.t.Helper()
	for _, n := range sizes {
		s.next++
		layers = append(layers, s.o.put(noise(n*mib, s.next)))
	}
	repo := s.o.repo(name)
	manifest = s.o.tag(name, s.o.image(append(layers, more...)...))
	if _, err := s.Manifest(s.t.Context(), repo, oci.Reference{Repository: repo.Repository, Digest: manifest}); err != nil {
		s.t.Fatal(err)
	}
	for _, d := range layers {
		if _, _, err := s.get(repo, d); err != nil {
			s.t.Fatal(err)
		}
	}
	s.idle()
	return manifest, layers
}

// TestRemoveOfDigests: what was pulled by its digest alone keeps what it uses when tags go,
// and goes with its repository, as long as no other has it.
func TestRemoveOfDigests(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("v1", 2, 3) // in repository a
	b, ofB := s.byDigest("b", []int{1}, layers[0])
	c, ofC := s.byDigest("c", []int{2}, layers[0])
	remove := func(ref oci.Reference, tags, blobs int) {
		t.Helper()
		if r, err := s.Remove(ref); err != nil || r.Tags != tags || r.Blobs != blobs {
			t.Errorf("%s: %+v, %v; want %d tags, %d blobs", ref, r, err, tags, blobs)
		}
	}
	whole := func(name string) oci.Reference { return oci.Reference{Repository: s.o.repo(name).Repository} }
	remove(s.ref("v1"), 1, 2) // its manifest and the layer that nobody shares
	if s.here(layers...) != 1 || s.here(layers[0], b, c, ofB[0], ofC[0]) != 5 {
		t.Error("what others use is gone")
	}
	remove(whole("d"), 0, 0)
	remove(whole("b"), 0, 2)
	if s.here(b, ofB[0]) != 0 || s.here(layers[0], c, ofC[0]) != 3 {
		t.Error("it is not what only b used that is gone")
	}
	s.checkpoint()
	s.grant(s.o.repo("d").Repository, c) // which somebody else was seen to have
	remove(whole("c"), 0, 0)
	remove(oci.Reference{Digest: c}, 0, 3)
	if s.here(c, ofC[0], layers[0]) != 0 {
		t.Error("it is still here")
	}
}

// TestRemoveMovedTag: what a tag named before goes with its repository, and not with the tag.
func TestRemoveMovedTag(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	was, before := s.image("v1", 2)
	s.image("v1", 3)
	if r, err := s.Remove(s.ref("v1")); err != nil || r.Blobs != 2 || s.here(was, before[0]) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := s.Remove(oci.Reference{Repository: s.o.repo("a").Repository}); err != nil || r.Blobs != 2 || s.here(was, before[0]) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRemoveUpstreamShares: what came from another upstream stays when one goes, though a tag of
// that names it, too.
func TestRemoveUpstreamShares(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	repo := s.o.repo("b")
	repo.Upstream = "ghcr.io"
	layer := s.o.put(noise(mib, 4711))
	d := s.o.tag("v1", s.o.image(layer))
	if _, err := s.Manifest(t.Context(), repo, oci.Reference{Repository: repo.Repository, Digest: d}); err != nil {
		t.Fatal(err)
	}
	s.idle()
	s.pull("v1", []oci.Digest{layer})
	if r, err := s.Remove(oci.Reference{Repository: oci.Repository{Upstream: "docker.io"}}); err != nil || r.Tags != 1 || s.here(d, layer) != 2 {
		t.Errorf("%+v, %v; %d of 2 are here", r, err, s.here(d, layer))
	}
}
