package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cistern/internal/oci"
)

// fileOf is where a whole blob lies.
func (r *rig) fileOf(d oci.Digest) string {
	return filepath.Join(r.o.Dir, "blobs", d.Algorithm(), d.Hex()[:2], d.Hex())
}

func (r *rig) asideOf(d oci.Digest) string {
	return filepath.Join(r.o.Dir, "damaged", d.Algorithm()+"-"+d.Hex())
}

// flip changes one byte of a file, as a disk may.
func flip(t testing.TB, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	b[0] ^= 0x10
	_, werr := f.WriteAt(b, off)
	if err := errors.Join(err, werr, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// kept has an image of three layers in a cache, all recorded.
func kept(t testing.TB, c *rig, o *origin) (layers []oci.Digest, manifest oci.Digest) {
	t.Helper()
	for i, size := range []int{3 * mib, 300 << 10, 4000} {
		layers = append(layers, o.put(noise(size, uint64(700+i))))
	}
	manifest = o.tag("v1", o.image(layers...))
	repo := o.repo("library/app")
	content, err := c.Manifest(t.Context(), repo, oci.Reference{Repository: repo.Repository, Tag: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	content.Close()
	for _, d := range layers {
		c.want(repo, d, OutcomeMiss)
	}
	c.idle()
	if !c.checkpoint() {
		t.Fatal("nothing is recorded")
	}
	for _, d := range append(layers[:3:3], manifest) {
		c.hot.remove(d)
	}
	return layers, manifest
}

// verify runs Verify, with repairs from o if that is not nil, and gives what it found.
func (r *rig) verify(o *origin) map[string]Finding {
	r.t.Helper()
	found := map[string]Finding{}
	v := Verification{
		Found:    func(f Finding) { found[f.Digest] = f },
		Progress: func(VerifyProgress) {},
	}
	if o != nil {
		v.Repository = func(repo oci.Repository) (*Repository, bool) { return o.repo(repo.Name), true }
	}
	p, err := r.Verify(r.t.Context(), v)
	if err != nil || p.Findings != int64(len(found)) || p.Blobs != p.OfBlobs || p.Bytes != p.OfBytes {
		r.t.Errorf("%+v, %v, with %d findings", p, err, len(found))
	}
	return found
}

// TestVerify: each kind of damage is found, with the offset where that can be known; the
// blob is set aside, and fetched again when it is asked for. What is right stays.
func TestVerify(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do    func(t *testing.T, file string)
		off   int64
		what  string
		aside bool
	}{
		"a bit":     {func(t *testing.T, f string) { flip(t, f, 2*mib+17) }, -1, "are not those of its digest", true},
		"truncated": {func(t *testing.T, f string) { must(t, os.Truncate(f, mib+5)) }, mib + 5, "has 1048581 bytes of 3145728", true},
		"extended":  {func(t *testing.T, f string) { must(t, os.Truncate(f, 4*mib)) }, 3 * mib, "has 4194304 bytes", true},
		"deleted":   {func(t *testing.T, f string) { must(t, os.Remove(f)) }, -1, "is gone", false},
		"a folder":  {func(t *testing.T, f string) { must(t, errors.Join(os.Remove(f), os.Mkdir(f, 0o700))) }, -1, "not a regular file", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c := newOrigin(), open(t, Options{Limit: 1 << 30})
			layers, _ := kept(t, c, o)
			if found := c.verify(nil); len(found) > 0 {
				t.Fatalf("of what is right: %+v", found)
			}
			tc.do(t, c.fileOf(layers[0]))
			found := c.verify(nil)
			f := found[layers[0].String()]
			if len(found) != 1 || f.FirstBad != tc.off || !strings.Contains(f.What, tc.what) || f.Size != 3*mib || f.Upstream != "docker.io" || f.Repaired {
				t.Errorf("%+v", found)
			}
			if _, err := os.Stat(c.asideOf(layers[0])); (err == nil) != tc.aside || (f.SetAside != "") != tc.aside {
				t.Errorf("set aside: %v, %q", err, f.SetAside)
			}
			if c.Stats().Damaged != 1 || c.missed(layers[0]).Why != "damaged" {
				t.Errorf("%d damaged, and gone because: %s", c.Stats().Damaged, c.missed(layers[0]))
			}
			c.want(o.repo("library/app"), layers[0], OutcomeMiss)
			c.want(o.repo("library/app"), layers[1], OutcomeHit)
			c.idle()
			if found := c.verify(nil); len(found) > 0 {
				t.Errorf("afterwards: %+v", found)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRepair: what is damaged is fetched at once, a manifest and what only it names, and
// then it is known where a blob was wrong. What no tag names is left for the next pull.
func TestRepair(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{Limit: 1 << 30})
	layers, manifest := kept(t, c, o)
	alone := o.put(noise(mib, 710))
	c.want(o.repo("library/app"), alone, OutcomeMiss)
	c.idle()
	c.checkpoint()
	flip(t, c.fileOf(layers[0]), 2*mib+17)
	flip(t, c.fileOf(layers[2]), 0)
	flip(t, c.fileOf(manifest), 9)
	flip(t, c.fileOf(alone), 5)
	found := c.verify(o)
	for d, want := range map[oci.Digest]int64{layers[0]: 2*mib + 17, layers[2]: 0, manifest: 9} {
		if f := found[d.String()]; !f.Repaired || f.FirstBad != want || f.Then != "fetched again from docker.io/library/app" {
			t.Errorf("%+v", f)
		}
	}
	if f := found[alone.String()]; f.Repaired || f.FirstBad != -1 || !strings.Contains(f.Then, "no cached tag names it") || len(found) != 4 {
		t.Errorf("%+v of %d", f, len(found))
	}
	asked := o.count("blob")
	for _, d := range layers {
		c.want(o.repo("library/app"), d, OutcomeHit)
	}
	if o.count("blob") != asked {
		t.Error("upstream is asked once more")
	}
	c.checkpoint()
	// Upstream being gone, it says so.
	flip(t, c.fileOf(layers[0]), 1)
	o.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
	if f := c.verify(o)[layers[0].String()]; f.Repaired || !strings.Contains(f.Then, "failed") {
		t.Errorf("%+v", f)
	}
}

// TestVerifyBesideEviction: a blob that is evicted while it is read is not damaged, and
// its space is free at once.
func TestVerifyBesideEviction(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{Limit: 1 << 30})
	layers, _ := kept(t, c, o)
	rec, _ := c.findStored(layers[0])
	e, buf := newExam(rec), make([]byte, mib)
	if _, over, bad := c.step(e, buf); over || bad != nil {
		t.Fatalf("%v, %+v", over, bad)
	}
	if !c.expel(append(c.freshVictims(1), rec)) || c.store.Usage().EvictedOpen != 0 {
		t.Error("it is held")
	}
	if n, over, bad := c.step(e, buf); n != 0 || !over || bad != nil {
		t.Errorf("%d, %v, %+v", n, over, bad)
	}
	e = newExam(rec)
	c.want(o.repo("library/app"), layers[0], OutcomeMiss) // another file of that digest
	if _, over, bad := c.step(e, buf); !over || bad != nil {
		t.Errorf("%v, %+v", over, bad)
	}
}

// TestVerifyStrays: files without a record are found; one is recorded, one set aside, and
// the account has both right.
func TestVerifyStrays(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{Limit: 1 << 30})
	kept(t, c, o)
	used := c.store.Usage().Used
	good := noise(40<<10, 730)
	for _, d := range []oci.Digest{oci.FromBytes(good), oci.FromBytes([]byte("another"))} {
		must(t, os.MkdirAll(filepath.Dir(c.fileOf(d)), 0o700))
		must(t, os.WriteFile(c.fileOf(d), good, 0o600))
	}
	found := c.verify(nil)
	if f := found[oci.FromBytes(good).String()]; len(found) != 2 || !f.Repaired || !strings.Contains(f.Then, "recorded") {
		t.Errorf("%+v", found)
	}
	if f := found[oci.FromBytes([]byte("another")).String()]; f.Repaired || f.SetAside == "" || !strings.Contains(f.What, "not those of its digest") {
		t.Errorf("%+v", f)
	}
	if n := c.store.Usage().Used - used; n < 80<<10 || n > 140<<10 {
		t.Errorf("the account has %d bytes more", n)
	}
	if found := c.verify(nil); len(found) > 0 {
		t.Errorf("once more: %+v", found)
	}
}

// TestVerifyOnce: one runs at a time, it ends when who wants to know leaves, and when the
// cache closes.
func TestVerifyOnce(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	kept(t, c, o)
	ctx, cancel := context.WithCancel(t.Context())
	var second error
	_, err := c.Verify(ctx, Verification{Found: func(Finding) {}, Progress: func(VerifyProgress) {
		_, second = c.Verify(ctx, Verification{})
		cancel()
	}})
	if !errors.Is(err, context.Canceled) || !errors.Is(second, ErrVerifying) {
		t.Errorf("%v; the second: %v", err, second)
	}
	c.close()
	if _, err := c.Verify(t.Context(), Verification{}); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

// TestRepairElsewhere: a repository that does not give it any more is not the only one that
// is asked; a pin's is, too.
func TestRepairElsewhere(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]func(t *testing.T, c *rig, repo *Repository, manifest oci.Digest){
		"a tag": func(t *testing.T, c *rig, repo *Repository, _ oci.Digest) {
			content, err := c.Manifest(t.Context(), repo, oci.Reference{Repository: repo.Repository, Tag: "v1"})
			must(t, err)
			content.Close()
			c.checkpoint()
		},
		"a pin": func(t *testing.T, c *rig, repo *Repository, manifest oci.Digest) {
			_, err := c.Pin(oci.Reference{Repository: repo.Repository, Digest: manifest})
			must(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c, gone := newOrigin(), open(t, Options{Limit: 1 << 30}), newOrigin()
			gone.refuse = func(context.Context, string, string) error { return oci.ErrNotFound }
			layers, manifest := kept(t, c, o)
			keep(t, c, o.repo("zeta/app"), manifest)
			flip(t, c.fileOf(layers[0]), 5)
			var f Finding
			asked := map[string]bool{}
			_, err := c.Verify(t.Context(), Verification{Found: func(x Finding) { f = x }, Progress: func(VerifyProgress) {},
				Repository: func(r oci.Repository) (*Repository, bool) {
					asked[r.Name] = true
					if r.Name == "library/app" {
						return gone.repo(r.Name), true
					}
					return o.repo(r.Name), true
				}})
			if err != nil || !f.Repaired || f.FirstBad != 5 || !asked["zeta/app"] {
				t.Errorf("%v, %+v, asked %v", err, f, asked)
			}
		})
	}
}

// TestVerifyClosed: a cache that closes while it is verified ends that.
func TestVerifyClosed(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	kept(t, c, o)
	closed := make(chan struct{})
	var once sync.Once
	_, err := c.Verify(t.Context(), Verification{Found: func(f Finding) { t.Errorf("%+v", f) }, Progress: func(VerifyProgress) {
		once.Do(func() {
			go func() {
				defer close(closed)
				c.close()
			}()
			<-c.ctx.Done()
		})
	}})
	<-closed
	if !errors.Is(err, errClosed) {
		t.Error(err)
	}
}
