package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// TestWhyUngranted: of a private image another repository's name says that its parts are
// here, and not granted to it; of its own none is.
func TestWhyUngranted(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.o.private = true
	m, layers := s.image("v1", 2)
	other := oci.Reference{Repository: oci.Repository{Upstream: "docker.io", Name: "b"}, Digest: m}
	for ref, want := range map[oci.Reference]int{s.ref("v1"): 0, other: 1 + len(layers)} {
		n := 0
		for _, p := range s.Image(ref, s.o.repo("a").Policy).Parts {
			if p.Ungranted {
				n++
			}
		}
		if n != want {
			t.Errorf("%s: %d parts are not granted, want %d", ref, n, want)
		}
	}
}

// TestWhyFresh: of a tag it is said until when nobody asks upstream about it.
func TestWhyFresh(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.image("v1", 2)
	i := s.Image(s.ref("v1"), &Policy{})
	if got := i.Fresh.Sub(i.Checked); got != DefaultFresh || time.Since(i.Checked) > time.Minute {
		t.Errorf("fresh for %v", got)
	}
}

// TestWhyUnverified: what upstream sent last was not the blob, and that is why it is not
// here; what comes right afterwards is.
func TestWhyUnverified(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(mib, 330)
	d := o.put(data)
	wrong := noise(mib, 331)
	o.blob = func(n int, _ oci.Digest, off, _ int64) (*Body, error) {
		if n > 2 {
			return nil, nil
		}
		return body(int64(len(wrong)), off, step{data: wrong[off:]})
	}
	if _, _, err := c.get(o.repo("a"), d); err == nil {
		t.Fatal("wrong bytes are served")
	}
	c.idle()
	if p := c.Seen(d); p.Here || p.Absence.Why != "not verified" || time.Since(p.Absence.At) > time.Minute {
		t.Errorf("%+v", p.Absence)
	}
	content, err := c.Blob(t.Context(), o.repo("a"), d)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if _, err := readAll(content); err != nil || content.Reason[:15] != "not verified 20" {
		t.Errorf("%q, %v", content.Reason, err)
	}
	c.idle()
	if p := c.Seen(d); !p.Here {
		t.Errorf("%+v", p.Absence)
	}
}

// TestWhyUnkept: what was sent on and not kept says so, and when, the next time; what is kept
// afterwards and goes says that.
func TestWhyUnkept(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	d := o.put(noise(2*mib, 332))
	c.want(o.repo("a"), o.put(noise(2*mib, 333)), OutcomeMiss) // makes the folder
	c.idle()
	fills := filepath.Join(c.o.Dir, "fills")
	if err := errors.Join(os.Rename(fills, fills+"-away"), os.WriteFile(fills, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"never seen", "not kept 20"} {
		content, err := c.Blob(t.Context(), o.repo("a"), d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readAll(content); err != nil || content.Outcome != OutcomePass || !strings.HasPrefix(content.Reason, want) {
			t.Errorf("%v, %q; want %q, %v", content.Outcome, content.Reason, want, err)
		}
		content.Close()
	}
	if p := c.Seen(d); p.Here || p.Absence.Why != "not kept" || time.Since(p.Absence.At) > time.Minute {
		t.Errorf("%+v", p.Absence)
	}
	if err := errors.Join(os.Remove(fills), os.Rename(fills+"-away", fills)); err != nil {
		t.Fatal(err)
	}
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	rec, _ := c.findStored(d)
	c.expel([]index.Record{rec})
	if p := c.Seen(d); p.Absence.Why != "evicted" {
		t.Errorf("%+v", p.Absence)
	}
}

// TestWhyMoved: of a tag that has moved it is said what it named before; not of one that
// was pulled for the first time.
func TestWhyMoved(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	was, _ := s.image("v1", 1)
	if i := s.Image(s.ref("v1"), &Policy{}); i.Was != "" {
		t.Errorf("%q", i.Was)
	}
	s.image("v1", 2)
	if i := s.Image(s.ref("v1"), &Policy{}); i.Was != was.String() {
		t.Errorf("%q, want %s", i.Was, was)
	}
}

// TestWhyGone: of a tag that upstream does not have any more that is said.
func TestWhyGone(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.image("v1", 1)
	s.o.refuse = func(context.Context, string, string) error { return oci.ErrNotFound }
	if _, err := s.tagged(s.o, "v1", 0); !errors.Is(err, oci.ErrNotFound) {
		t.Fatal(err)
	}
	if i := s.Image(s.ref("v1"), &Policy{}); i.Absence == nil || i.Absence.Why != whyNotFound || time.Since(i.Absence.At) > time.Minute {
		t.Errorf("%+v", i.Absence)
	}
}
