package cache

import (
	"testing"
	"time"

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
