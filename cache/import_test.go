package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// carry takes a bundle from one cache to another, and gives what that says at the end.
func carry(t *testing.T, from, to *rig, repo oci.Repository, b Bundle) Imported {
	t.Helper()
	ref := oci.Reference{Repository: repo, Tag: "v1"}
	i, err := to.Import(ref, b)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range b.Pieces {
		if !slices.Contains(i.Missing, p.Digest) {
			continue
		}
		k, err := from.OpenKept(p.Digest)
		if err != nil {
			t.Fatal(err)
		}
		p.Private = b.Private
		err = to.ImportBlob(t.Context(), repo, p, k)
		k.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	if i, err = to.Import(ref, b); err != nil || len(i.Missing) > 0 {
		t.Fatalf("%+v, %v", i, err)
	}
	return i
}

// TestBundle: an image is carried if it is here whole, of an index those platforms that are; what is missing is
// named with the reason; none of it is a use.
func TestBundle(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	d, layers := s.image("v1", 1, 2)
	before := s.lastTouch(layers[0])
	b, err := s.Bundle(s.ref("v1"))
	if err != nil || b.Image != "docker.io/a:v1" || b.Target.Digest != d || len(b.Pieces) != 3 || b.Pieces[2].Digest != d || !b.Pieces[2].Manifest || b.Private {
		t.Errorf("%+v, %v", b, err)
	}
	if !s.lastTouch(layers[0]).Equal(before) {
		t.Error("looking was a use")
	}
	other := s.o.tag("other", s.o.image(layers[0]))
	child := func(d oci.Digest, arch string) string {
		return fmt.Sprintf(`{"digest":%q,"size":%d,"mediaType":%q,"platform":{"os":"linux","architecture":%q}}`, d, len(s.o.named[d.String()].Bytes), oci.MediaTypeOCIManifest, arch)
	}
	text := `{"schemaVersion":2,"manifests":[` + child(d, "amd64") + "," + child(other, "arm64") + "]}"
	s.o.tag("multi", text)
	s.pull("multi", nil)
	b, err = s.Bundle(s.ref("multi"))
	if err != nil || len(b.Pieces) != 4 || !slices.Equal(b.Platforms, []string{"linux/amd64"}) || b.Absent != 1 {
		t.Errorf("%+v, %v", b, err)
	}
	s.pull("other", nil)
	rec, _ := s.findStored(layers[1])
	s.expel([]index.Record{rec})
	b, err = s.Bundle(s.ref("multi"))
	if err != nil || !slices.Equal(b.Platforms, []string{"linux/arm64"}) || len(b.Partial) != 1 || !strings.Contains(b.Partial[0], layers[1].String()) {
		t.Errorf("%+v, %v", b, err)
	}
	for tag, says := range map[string]string{"v1": layers[1].String() + " is not here (evicted 20", "nope": "not known here"} {
		if _, err := s.Bundle(s.ref(tag)); !errors.Is(err, &oci.Error{Code: oci.CodeManifestUnknown}) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", tag, err)
		}
	}
	if _, err := s.OpenKept(layers[1]); !errors.Is(err, oci.ErrNotFound) {
		t.Error(err)
	}
}

// TestImport: what was imported is served for as long as upstream says nothing, also after a restart; upstream's
// word counts from the moment at which it has one, and no import beats it.
func TestImport(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	d, layers := s.image("v1", 1, 2)
	b, err := s.Bundle(s.ref("v1"))
	if err != nil {
		t.Fatal(err)
	}
	there, o := open(t, Options{}), newOrigin()
	o.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
	repo := o.repo("a").Repository
	if i := carry(t, s.rig, there, repo, b); i.Tag != TagImported || i.Now != d || !i.Checked.IsZero() {
		t.Errorf("%+v", i)
	}
	there.close()
	there = open(t, Options{Dir: there.o.Dir})
	for _, sick := range []bool{false, true} {
		o.sick = sick
		m, err := there.tagged(o, "v1", time.Hour)
		if err != nil || m.Digest != d || m.Outcome != OutcomeStale || time.Since(m.Since) > time.Hour {
			t.Errorf("sick %v: %+v, %v", sick, m, err)
		}
		if m, err := there.head(o, "v1", time.Hour); err != nil || m.Digest != d {
			t.Errorf("sick %v: %+v, %v", sick, m, err)
		}
	}
	there.want(o.repo("a"), layers[0], OutcomeHit)
	if p := there.Seen(layers[0]); p.Origin != "import" {
		t.Errorf("%+v", p)
	}
	if i := there.Image(s.ref("v1"), o.repo("a").Policy); !i.Imported || !i.Checked.IsZero() {
		t.Errorf("%+v", i)
	}
	until(t, "nobody asks upstream", func() bool { there.mu.Lock(); defer there.mu.Unlock(); return len(there.refreshing) == 0 })

	o.sick, o.refuse = false, nil
	now := o.tag("v1", o.image())
	if m, err := there.tagged(o, "v1", time.Hour); err != nil || m.Digest != now {
		t.Errorf("upstream's word is not taken: %+v, %v", m, err)
	}
	if i := carry(t, s.rig, there, repo, b); i.Tag != TagUpstream || i.Now != now || i.Checked.IsZero() {
		t.Errorf("%+v", i)
	}
	if m, err := there.tagged(o, "v1", time.Hour); err != nil || m.Digest != now {
		t.Errorf("an import beats upstream: %+v, %v", m, err)
	}
}

// TestImportAgain: a later archive moves a tag that an earlier one has brought, and its pin with it.
func TestImportAgain(t *testing.T) {
	t.Parallel()
	s, there := newShelf(t), open(t, Options{})
	repo := s.o.repo("a").Repository
	for _, n := range []int{1, 2} {
		s.dropTag(s.ref("v1"), whyNotFound)
		d, _ := s.image("v1", n)
		b, err := s.Bundle(s.ref("v1"))
		if err != nil {
			t.Fatal(err)
		}
		if i := carry(t, s.rig, there, repo, b); i.Tag != TagImported || i.Now != d {
			t.Errorf("%+v", i)
		}
		if n == 1 {
			if _, err := there.Pin(s.ref("v1")); err != nil {
				t.Error(err)
			}
		}
		if there.repin(); !there.pins.holding(d) {
			t.Errorf("what was imported %d times is not pinned", n)
		}
	}
}

// TestImportPrivate: private content stays that of its repository, and a digest alone gets nobody anything.
func TestImportPrivate(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.o.private = true
	d, layers := s.image("v1", 1)
	b, err := s.Bundle(s.ref("v1"))
	if err != nil || !b.Private {
		t.Fatalf("%+v, %v", b, err)
	}
	there, nobody := open(t, Options{}), newOrigin()
	nobody.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
	carry(t, s.rig, there, s.o.repo("a").Repository, b)
	there.checkpoint()
	there.want(nobody.repo("a"), layers[0], OutcomeHit)
	if got, _, err := there.get(nobody.repo("b"), layers[0]); err == nil {
		t.Errorf("a stranger got %d bytes", len(got))
	}
	ref := oci.Reference{Repository: nobody.repo("b").Repository, Tag: "v1"}
	public := b
	public.Private = false
	i, err := there.Import(ref, public)
	if err != nil || !slices.Equal(i.Missing, []oci.Digest{layers[0], d}) {
		t.Errorf("a digest alone proves nothing: %+v, %v", i, err)
	}
	forged := Carried{Digest: layers[0], Size: mib}
	if err := there.ImportBlob(t.Context(), ref.Repository, forged, bytes.NewReader(make([]byte, mib))); err == nil {
		t.Error("wrong bytes prove it")
	}
	if _, _, err := there.get(nobody.repo("b"), layers[0]); err == nil {
		t.Error("wrong bytes have given a right")
	}
	if i := carry(t, s.rig, there, ref.Repository, public); i.Tag != TagImported {
		t.Errorf("%+v", i)
	}
	there.want(nobody.repo("b"), layers[0], OutcomeHit)
	if got, _, err := there.get(nobody.repo("c"), layers[0]); err == nil {
		t.Errorf("an import has made %d private bytes public", len(got))
	}
}

// TestImportLabel: what is here as a private blob and comes as a manifest is one, and stays private.
func TestImportLabel(t *testing.T) {
	t.Parallel()
	c, o := open(t, Options{}), newOrigin()
	o.private = true
	text := []byte(o.image())
	d := o.put(text)
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	p := Carried{Digest: d, Size: int64(len(text)), Manifest: true, MediaType: oci.MediaTypeOCIManifest}
	if err := c.ImportBlob(t.Context(), o.repo("b").Repository, p, bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if rec, here := c.findStored(d); !here || rec.Class != index.ClassManifest || rec.Public || !c.granted(o.repo("b").Repository, d) {
		t.Errorf("%+v, %v", rec, here)
	}
}

// TestImportWrong: what is not what it is said to be is refused, and nothing of it is kept.
func TestImportWrong(t *testing.T) {
	t.Parallel()
	c, repo := open(t, Options{Limit: 64 * mib}), newOrigin().repo("a").Repository
	data := noise(2*mib, 7)
	d := oci.FromBytes(data)
	good := Carried{Digest: d, Size: int64(len(data))}
	torn := io.MultiReader(bytes.NewReader(data[:mib]), &failing{})
	for what, x := range map[string]struct {
		p Carried
		r io.Reader
	}{
		"other bytes": {good, bytes.NewReader(noise(2*mib, 8))},
		"too short":   {good, bytes.NewReader(data[1:])},
		"too long":    {good, bytes.NewReader(append(slices.Clip(data), 0))},
		"torn":        {good, torn},
		"no size":     {Carried{Digest: d, Size: -1}, bytes.NewReader(data)},
		"no digest":   {Carried{Size: 3}, bytes.NewReader(data)},
		"a page":      {Carried{Digest: d, Size: 2 * mib, Manifest: true, MediaType: "text/html"}, bytes.NewReader(data)},
		"too large":   {Carried{Digest: d, Size: 1 << 40}, bytes.NewReader(data)},
	} {
		if err := c.ImportBlob(t.Context(), repo, x.p, x.r); err == nil {
			t.Errorf("%s: no error", what)
		}
		if _, here := c.find(d); here {
			t.Fatalf("%s is kept", what)
		}
	}
	if err := c.ImportBlob(t.Context(), repo, good, bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
	index := Carried{Digest: oci.FromBytes([]byte("{}")), Size: 2, Manifest: true, MediaType: oci.MediaTypeOCIIndex}
	if i, err := c.Import(oci.Reference{Repository: repo, Tag: "x"}, Bundle{Target: index, Pieces: []Carried{good}}); err == nil {
		t.Errorf("%+v", i)
	}
	huge := Bundle{Pieces: []Carried{{Digest: index.Digest, Size: 1 << 40}}}
	if _, err := c.Import(oci.Reference{Repository: repo, Tag: "x"}, huge); err == nil || !strings.Contains(err.Error(), "cache.max_size") {
		t.Error(err)
	}
}

// TestImportBesideFill: an import waits for a fill of the same blob, and needs not bring what that has brought.
func TestImportBesideFill(t *testing.T) {
	t.Parallel()
	c, o := open(t, Options{}), newOrigin()
	data := noise(2*mib, 9)
	d, rest := o.put(data), make(chan struct{})
	o.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
		return body(2*mib, 0, step{data: data[:mib]}, step{wait: rest, data: data[mib:]})
	}
	content, err := c.Blob(t.Context(), o.repo("a"), d)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	done := make(chan error, 1)
	go func() {
		done <- c.ImportBlob(context.Background(), o.repo("a").Repository, Carried{Digest: d, Size: 2 * mib}, bytes.NewReader(data))
	}()
	close(rest)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := readAll(content); err != nil {
		t.Error(err)
	}
	c.idle()
	if n := o.count("blob"); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// failing is a connection that breaks.
type failing struct{}

func (*failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestBundleUngranted: what is private and not proven to be an image's own is not carried
// with it, however its manifest names it (promise 10).
func TestBundleUngranted(t *testing.T) {
	t.Parallel()
	c, holder, evil := open(t, Options{}), newOrigin(), newOrigin()
	holder.private = true
	d := holder.put(noise(2*mib, 1))
	c.want(holder.repo("secret"), d, OutcomeMiss)
	c.idle()
	evil.tag("v1", fmt.Sprintf(`{"schemaVersion":2,"layers":[{"digest":%q,"size":%d}]}`, d, 2*mib))
	ref := oci.Reference{Repository: evil.repo("evil").Repository, Tag: "v1"}
	if _, err := c.Manifest(t.Context(), evil.repo("evil"), ref); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Bundle(ref); !errors.Is(err, &oci.Error{Code: oci.CodeManifestUnknown}) || !strings.Contains(err.Error(), "not known to belong to") {
		t.Errorf("%v", err)
	}
}

// TestBundleLies: an image whose manifest says other sizes than its blobs have, or names
// something without a digest, is not whole: no archive of it would be.
func TestBundleLies(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	d := s.o.put(noise(mib, 7))
	for tag, text := range map[string]string{
		"size": fmt.Sprintf(`{"schemaVersion":2,"layers":[{"digest":%q,"size":%d}]}`, d, mib+1),
		"none": fmt.Sprintf(`{"schemaVersion":2,"layers":[{"digest":%q,"size":%d},{"size":1}]}`, d, mib),
	} {
		s.o.tag(tag, text)
		s.pull(tag, []oci.Digest{d})
		if b, err := s.Bundle(s.ref(tag)); !errors.Is(err, &oci.Error{Code: oci.CodeManifestUnknown}) {
			t.Errorf("%s: %+v, %v", tag, b.Pieces, err)
		}
	}
}

// TestImportMediaType: an archive gives a manifest no type that it is not of, and upstream's
// word corrects one that was wrong.
func TestImportMediaType(t *testing.T) {
	t.Parallel()
	c, o := open(t, Options{}), newOrigin()
	for _, text := range []string{`{"schemaVersion":2,"mediaType":"` + oci.MediaTypeOCIManifest + `","layers":[]}`, `{"schemaVersion":2,"layers":[]}`, `{"layers":[]`} {
		d := o.tag("v1", text)
		p := Carried{Digest: d, Size: int64(len(text)), Manifest: true, MediaType: oci.MediaTypeOCIIndex}
		if err := c.ImportBlob(t.Context(), o.repo("a").Repository, p, strings.NewReader(text)); !errors.Is(err, &oci.Error{Code: oci.CodeManifestInvalid}) {
			t.Errorf("%s: %v", text, err)
		}
	}
	text := `{"schemaVersion":2,"layers":[]}`
	d := o.tag("v1", text)
	p := Carried{Digest: d, Size: int64(len(text)), Manifest: true, MediaType: oci.MediaTypeDockerManifest}
	if err := c.ImportBlob(t.Context(), o.repo("a").Repository, p, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	c.keepManifest(o.repo("a"), o.named["v1"])
	if rec, ok := c.findStored(d); !ok || rec.MediaType != oci.MediaTypeOCIManifest {
		t.Errorf("%+v", rec)
	}
}

// TestImportOtherDigest: what an archive calls by a digest is that.
func TestImportOtherDigest(t *testing.T) {
	t.Parallel()
	s, there := newShelf(t), open(t, Options{})
	s.image("v1", 1)
	b, err := s.Bundle(s.ref("v1"))
	if err != nil {
		t.Fatal(err)
	}
	carry(t, s.rig, there, s.ref("v1").Repository, b)
	if i, err := there.Import(oci.Reference{Repository: s.ref("v1").Repository, Digest: oci.FromBytes([]byte("other"))}, b); err == nil {
		t.Errorf("%+v", i)
	}
}

// TestCarryingRests: who copies rests while somebody asks for what is here, and not else.
func TestCarryingRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &Cache{}
		k := &Kept{c: c}
		time.Sleep(time.Hour) // the clock of a bubble begins with a whole second
		c.scrubbed.used.Store(time.Now().Unix())
		if got := k.Rest(1, time.Second); got != politeness*time.Second || k.Bite() != bite {
			t.Errorf("%v", got)
		}
		if got := k.Rest(carryRate, 10*time.Millisecond); got != 990*time.Millisecond {
			t.Errorf("%v", got)
		}
		time.Sleep(carryQuiet + time.Second)
		if got := k.Rest(1, time.Second); got != 0 || k.Bite() != span {
			t.Errorf("%v", got)
		}
	})
}
