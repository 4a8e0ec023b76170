package cache

import (
	"errors"
	"fmt"
	"testing"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// TestPrivate: who does not hold a private blob does not get it, nor its size,
// in whatever state it is here; who holds it gets it by a cheap proof, once.
func TestPrivate(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 40 << 10, 2 * mib} {
		for _, state := range []string{"fetched", "recorded"} {
			t.Run(fmt.Sprint(size, " ", state), func(t *testing.T) {
				t.Parallel()
				holder, other, stranger := newOrigin(), newOrigin(), newOrigin()
				holder.private, other.private = true, true
				data := noise(size, 1)
				d := holder.put(data)
				other.put(data)
				c := open(t, Options{})
				c.want(holder.repo("holder"), d, OutcomeMiss)
				c.idle()
				if state == "recorded" {
					c.checkpoint()
				}
				for range 2 {
					if got, _, err := c.get(stranger.repo("stranger"), d); !errors.Is(err, oci.ErrNotFound) {
						t.Errorf("a stranger got %d bytes, %v", len(got), err)
					}
					if _, err := c.Stat(t.Context(), stranger.repo("stranger"), d); !errors.Is(err, oci.ErrNotFound) {
						t.Errorf("a stranger's HEAD: %v", err)
					}
				}
				if n := stranger.count("info"); n != 1 {
					t.Errorf("the stranger's upstream was asked %d times", n)
				}
				for range 2 {
					c.want(other.repo("other"), d, OutcomeHit)
					c.want(holder.repo("holder"), d, OutcomeHit)
				}
				if i, b := other.count("info"), other.count("blob"); i != 1 || b != 0 || holder.count("info") != 0 {
					t.Errorf("proofs: %d HEADs and %d GETs, and %d of the holder", i, b, holder.count("info"))
				}
			})
		}
	}
}

// TestPrivateJoin: the same while it is on its way.
func TestPrivateJoin(t *testing.T) {
	t.Parallel()
	holder, stranger := newOrigin(), newOrigin()
	holder.private = true
	data := noise(2*mib, 2)
	d := holder.put(data)
	rest := make(chan struct{})
	holder.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
		b, err := body(2*mib, 0, step{data: data[:mib]}, step{wait: rest, data: data[mib:]})
		b.Private = true
		return b, err
	}
	c := open(t, Options{})
	content, err := c.Blob(t.Context(), holder.repo("holder"), d)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if got, _, err := c.get(stranger.repo("stranger"), d); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a stranger got %d bytes, %v", len(got), err)
	}
	if _, err := c.Stat(t.Context(), stranger.repo("other"), d); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a stranger's HEAD: %v", err)
	}
	close(rest)
	if _, err := readAll(content); err != nil {
		t.Error(err)
	}
}

// TestPrivateManifest: by digest, under another repository.
func TestPrivateManifest(t *testing.T) {
	t.Parallel()
	holder, stranger, c := newOrigin(), newOrigin(), open(t, Options{})
	holder.private = true
	d := holder.tag("v1", holder.image())
	ask := func(o *origin, name string, get func(repo *Repository, ref oci.Reference) (*Content, error)) error {
		repo := o.repo(name)
		_, err := get(repo, oci.Reference{Repository: repo.Repository, Digest: d})
		return err
	}
	get := func(r *Repository, ref oci.Reference) (*Content, error) { return c.Manifest(t.Context(), r, ref) }
	head := func(r *Repository, ref oci.Reference) (*Content, error) { return c.StatManifest(t.Context(), r, ref) }
	if err := ask(holder, "holder", get); err != nil {
		t.Fatal(err)
	}
	for _, how := range []func(*Repository, oci.Reference) (*Content, error){get, head} {
		if err := ask(stranger, "stranger", how); !errors.Is(err, oci.ErrNotFound) {
			t.Error(err)
		}
		if err := ask(holder, "holder", how); err != nil {
			t.Error(err)
		}
	}
	if holder.count("resolve") != 0 {
		t.Error("the holder had to prove it")
	}
}

// TestGrantsGoWithTheBlob: bytes that come back do not bring back who may have
// them.
func TestGrantsGoWithTheBlob(t *testing.T) {
	t.Parallel()
	holder, other, c := newOrigin(), newOrigin(), open(t, Options{})
	holder.private, other.private = true, true
	data := noise(2*mib, 3)
	d := holder.put(data)
	other.put(data)
	c.want(holder.repo("holder"), d, OutcomeMiss)
	c.idle()
	c.want(other.repo("other"), d, OutcomeHit)
	c.checkpoint()
	rec, _ := c.findStored(d)
	c.expel([]index.Record{rec})
	delete(other.blobs, d) // upstream has taken it away
	c.want(holder.repo("holder"), d, OutcomeMiss)
	c.idle()
	if got, _, err := c.get(other.repo("other"), d); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("an old grant gave %d bytes, %v", len(got), err)
	}
}

// TestPublicMakesPublic: what anybody can get anonymously needs no proof, also
// if it came privately first.
func TestPublicMakesPublic(t *testing.T) {
	t.Parallel()
	holder, public, c := newOrigin(), newOrigin(), open(t, Options{})
	holder.private = true
	text := holder.image()
	holder.tag("v1", text)
	d := public.tag("v1", text)
	for _, o := range []*origin{holder, public} {
		repo := o.repo(fmt.Sprint(o.private))
		if _, err := c.Manifest(t.Context(), repo, oci.Reference{Repository: repo.Repository, Tag: "v1"}); err != nil {
			t.Fatal(err)
		}
	}
	stranger := newOrigin()
	repo := stranger.repo("stranger")
	if _, err := c.Manifest(t.Context(), repo, oci.Reference{Repository: repo.Repository, Digest: d}); err != nil {
		t.Error(err)
	}
}
