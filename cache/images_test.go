package cache

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// shelf is a cache of 64 MiB with an image of three layers under a tag, and others that
// push it out.
type shelf struct {
	*rig
	t    testing.TB
	o    *origin
	next uint64
}

func newShelf(t testing.TB) *shelf {
	return &shelf{open(t, Options{Limit: 64 * mib}), t, newOrigin(), 300}
}

// image gives a tag an image of fresh layers of so many MiB, and pulls it.
func (s *shelf) image(tag string, sizes ...int) (manifest oci.Digest, layers []oci.Digest) {
	s.t.Helper()
	for _, n := range sizes {
		s.next++
		layers = append(layers, s.o.put(noise(n*mib, s.next)))
	}
	manifest = s.o.tag(tag, s.o.image(layers...))
	s.pull(tag, layers)
	return manifest, layers
}

func (s *shelf) pull(tag string, layers []oci.Digest) {
	s.t.Helper()
	if _, err := s.tagged(s.o, tag, 0); err != nil {
		s.t.Fatal(err)
	}
	for _, d := range layers {
		if data, _, err := s.get(s.o.repo("a"), d); err != nil || oci.FromBytes(data) != d {
			s.t.Fatal(err)
		}
	}
	s.idle()
}

func (s *shelf) here(ds ...oci.Digest) (n int) {
	for _, d := range ds {
		if _, ok := s.find(d); ok {
			n++
		}
	}
	return n
}

func (s *shelf) ref(tag string) oci.Reference {
	return oci.Reference{Repository: s.o.repo("a").Repository, Tag: tag}
}

// names lists the images, sorted.
func names(s *shelf) (names []string) {
	s.t.Helper()
	for i, err := range s.Images() {
		if err != nil || i.Bytes < 5*mib {
			s.t.Errorf("%+v, %v", i, err)
		}
		names = append(names, i.Image)
	}
	slices.Sort(names)
	return names
}

// TestImages: what is cached is listed at once, and after a checkpoint once; an image is
// described with the layers that it shares counted once, and with what of it is not here;
// none of it counts as a use.
func TestImages(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("v1", 3, 2)
	s.o.tag("v2", s.o.image(layers[0], layers[0], layers[1]))
	s.pull("v2", nil)
	for range 2 {
		if got := names(s); !slices.Equal(got, []string{"docker.io/a:v1", "docker.io/a:v2"}) {
			t.Errorf("%q", got)
		}
		s.checkpoint()
	}
	rec, _ := s.findStored(layers[1])
	before := s.lastTouch(layers[0])
	s.expel([]index.Record{rec})
	i := s.Image(s.ref("v2"), &Policy{})
	if len(i.Parts) != 4 || i.Parts[0].Kind != "manifest" || !i.Parts[2].Shared || i.Bytes < 3*mib || i.Bytes > 4*mib {
		t.Errorf("%+v", i)
	}
	if p := i.Parts[3]; p.Here || p.Absence == nil || p.Absence.Why != "evicted" || time.Since(p.Absence.At) > time.Minute {
		t.Errorf("%+v", p)
	}
	if p := s.Seen(layers[0]); !p.Here || p.Kind != "blob" || p.Size != 3*mib {
		t.Errorf("%+v", p)
	}
	if p := s.Seen(oci.FromBytes([]byte("no"))); p.Here || p.Absence.Why != "never seen" {
		t.Errorf("%+v", p)
	}
	if got := s.Image(s.ref("nope"), &Policy{}); got.Digest != "" || len(got.Parts) != 0 {
		t.Errorf("%+v", got)
	}
	if after := s.lastTouch(layers[0]); !after.Equal(before) {
		t.Error("looking was a use")
	}
	if s.dropTag(s.ref("v1"), whyNotFound); !slices.Equal(names(s), []string{"docker.io/a:v2"}) {
		t.Error("a tag that is gone is listed")
	}
}

// TestStrangeImages: whatever a manifest says, it is described, and harms nothing.
func TestStrangeImages(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	for tag, text := range map[string]string{
		"nobody": `{"manifests":[{"size":5},{"digest":"","size":-1,"platform":{"os":"linux"}}]}`,
		"huge":   `{"layers":[{"digest":"` + oci.FromBytes([]byte("x")).String() + `","size":-4000000000000000000},{"digest":"` + oci.FromBytes([]byte("y")).String() + `","size":9223372036854775807},{"digest":"` + oci.FromBytes([]byte("z")).String() + `","size":9223372036854775807}]}`,
		"text":   `no manifest`,
		"loop":   `{"manifests":[{"digest":"` + oci.FromBytes([]byte("no manifest")).String() + `"}]}`,
	} {
		d := s.o.tag(tag, text)
		if _, err := s.tagged(s.o, tag, 0); err != nil {
			t.Fatal(err)
		}
		if i := s.Image(s.ref(tag), &Policy{}); i.Digest != d.String() || len(i.Parts) == 0 || i.Bytes < 0 {
			t.Errorf("%s: %+v", tag, i)
		}
	}
	n := 0
	for i, err := range s.Images() {
		if n++; err != nil || i.Bytes < 0 {
			t.Errorf("%+v, %v", i, err)
		}
	}
	if n != 4 {
		t.Errorf("%d images", n)
	}
}

// TestPlatforms: of an index the platforms that nobody has pulled are known, and do not
// count as missing.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("amd64", 2)
	child := oci.FromBytes([]byte(s.o.image(layers...)))
	other := oci.FromBytes([]byte("another platform"))
	s.o.tag("v1", fmt.Sprintf(`{"manifests":[{"digest":%q,"size":9,"platform":{"os":"linux","architecture":"amd64"}},{"digest":%q,"size":9,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}}]}`, child, other))
	s.pull("v1", nil)
	i := s.Image(s.ref("v1"), &Policy{})
	if len(i.Parts) != 4 || i.Parts[0].Kind != "index" || i.Parts[1].Platform != "linux/amd64" || !i.Parts[2].Here || i.Parts[3].Platform != "linux/arm64/v8" || i.Parts[3].Here {
		t.Errorf("%+v", i.Parts)
	}
	for info, err := range s.Images() {
		if err != nil || info.Missing != 0 || info.Bytes < 2*mib {
			t.Errorf("%+v, %v", info, err)
		}
	}
}

// TestEvictNext: what would go next is what goes next, and nothing goes by asking.
func TestEvictNext(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, old := s.image("v1", 3, 2)
	_, kept := s.image("v2", 4)
	s.image("v3", 6)
	s.checkpoint()
	next, err := s.EvictNext(12 * mib)
	if err != nil || len(next) < 3 || next[0].Digest != old[0].String() || next[1].Digest != old[1].String() || next[0].Class != "large" {
		t.Fatalf("%+v, %v", next, err)
	}
	if n := s.here(append(old, kept...)...); n != 3 {
		t.Errorf("%d of 3 are here", n)
	}
	for s.here(old...) > 0 {
		s.image("more", 2)
	}
	first, second, third := s.missed(old[0]), s.missed(old[1]), s.missed(kept[0])
	if second.At.Before(first.At) || third.Why == "evicted" && third.At.Before(second.At) {
		t.Errorf("they went in another order: %v, %v, %v", first, second, third)
	}
}
