// Package carry_test carries images by archives from a daemon to one that reaches no upstream, and reads the archives with
// other tools.
package carry_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"cistern/test/client"
	"cistern/test/image"
	"cistern/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// site is a daemon in front of a registry, with images in its cache.
type site struct {
	*lab.Cistern
	images []*image.Pushed
	dir    string // for archives
}

// partly are the images of which only linux/amd64 is pulled.
var partly = []string{"lab/multi:1", "lab/multi-docker:1"}

// newSite pulls all images of the set through a daemon, and takes the registry away.
func newSite(t *testing.T) *site {
	t.Helper()
	registry := lab.StartRegistry(t, lab.RegistryOptions{})
	front := lab.NewFront(t, registry.URL)
	s := &site{Cistern: lab.StartCistern(t, lab.CisternOptions{Upstreams: map[string]string{"docker.io": front.URL}}), dir: lab.Dir(t)}
	skopeo, crane := client.NewSkopeo(t, client.Mirrors{"docker.io": s.Addr}), client.NewCrane(t)
	for _, spec := range append(image.Set(), image.Spec{Name: "lab/whole:1", Sizes: []int64{700}, Platforms: image.Set()[3].Platforms}) {
		p, err := image.Push(lab.Dir(t), registry.Addr, spec, authn.Anonymous)
		if err != nil {
			t.Fatal(err)
		}
		s.images = append(s.images, p)
		if slices.Contains(partly, p.Name) {
			_, err = crane.Run(t.Context(), "pull", "--platform", "linux/amd64", s.Addr+"/"+p.Name, filepath.Join(lab.Dir(t), "x.tar"))
		} else {
			err = skopeo.Pull(t.Context(), "docker.io/"+p.Name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	front.Down()
	return s
}

// cistern runs a verb.
func (s *site) cistern(t *testing.T, args ...string) string {
	t.Helper()
	out, err := lab.Run(t.Context(), exec.Command(lab.Binary(t), append(args, "--admin", s.Admin)...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTools: skopeo and crane read what is exported, as a directory and as a tar: each image by its name, all platforms that it has
// here, Docker's media types as well.
func TestTools(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	there := lab.StartRegistry(t, lab.RegistryOptions{})
	crane, policy := client.NewCrane(t), filepath.Join(s.dir, "policy.json")
	lab.Write(t, policy, `{"default":[{"type":"insecureAcceptAnything"}]}`)
	s.cistern(t, "export", "--from", "access", "-o", s.dir+"/all/")
	s.cistern(t, "export", "--from", "access", "-o", s.dir+"/all.tar")
	for _, p := range s.images {
		name := "docker.io/" + p.Name
		one := filepath.Join(s.dir, strings.NewReplacer("/", "_", ":", "_").Replace(p.Name))
		s.cistern(t, "export", name, "-o", one+"/")
		for from, to := range map[string]string{"oci:" + s.dir + "/all:" + name: "dir", "oci-archive:" + s.dir + "/all.tar:" + name: "tar", "oci:" + one + ":" + name: "one"} {
			target := there.Addr + "/" + to + "/" + p.Name
			if out, err := lab.Run(t.Context(), exec.Command("skopeo", "--policy", policy, "copy", "--all", "--dest-tls-verify=false", from, "docker://"+target)); err != nil {
				t.Errorf("skopeo copy %s: %v %s", from, err, out)
				continue
			}
			s.same(t, crane, p, target)
		}
		target := there.Addr + "/crane/" + p.Name
		if out, err := crane.Run(t.Context(), "push", one, target); err != nil {
			t.Errorf("crane push of %s: %v %s", p.Name, err, out)
			continue
		}
		s.same(t, crane, p, target)
	}
	if out, err := crane.Run(t.Context(), "push", "--index", s.dir+"/all", there.Addr+"/everything:1"); err != nil {
		t.Errorf("crane push --index: %v %s", err, out)
	}
	s.damaged(t)
}

// damaged changes a byte of a cached layer: what holds it is not exported, and nothing is left of the attempt.
func (s *site) damaged(t *testing.T) {
	t.Helper()
	p := s.images[1]
	layer := strings.TrimPrefix(p.Layers[len(p.Layers)-1], "sha256:")
	file := filepath.Join(s.Cache, "blobs", "sha256", layer[:2], layer)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := lab.Dir(t)
	for _, to := range []string{"x.tar", "x/"} {
		out, err := lab.Run(t.Context(), exec.Command(lab.Binary(t), "export", "docker.io/"+p.Name, "-o", dir+"/"+to, "--admin", s.Admin))
		if err == nil || !strings.Contains(err.Error()+out, "its file in the cache is damaged") {
			t.Errorf("%s, %v", out, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// same compares an image that a tool has copied with the origin's: bytes of blobs always, the digest where all of it was here in
// OCI's form.
func (s *site) same(t *testing.T, crane *client.Crane, p *image.Pushed, target string) {
	t.Helper()
	out, err := crane.Run(t.Context(), "validate", "--remote", target)
	if err != nil && !p.Zstd { // which it cannot unpack
		t.Errorf("%s: %v %s", target, err, out)
	}
	digest, err := crane.Run(t.Context(), "digest", target)
	if err != nil || !p.Docker && !slices.Contains(partly, p.Name) && digest != p.Digest {
		t.Errorf("%s is %s, %v; at the origin %s", target, digest, err, p.Digest)
	}
	manifest, err := crane.Run(t.Context(), "manifest", "--platform", "linux/amd64", target)
	if err != nil {
		t.Error(err)
	}
	for _, d := range p.Blobs() {
		if !strings.Contains(manifest, d) {
			t.Errorf("%s lacks %s: %s", target, d, manifest)
		}
	}
}

// TestAirGap: where no upstream can be reached, clients pull what was imported, under the digests that it has upstream; what is new
// since an archive comes by another, and both in parts.
func TestAirGap(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.cistern(t, "export", "-o", s.dir+"/first.tar", "docker.io/lab/six:1", "docker.io/library/tiny:1")
	s.cistern(t, "export", "-o", s.dir+"/rest.tar", "--since", s.dir+"/first.tar", "--split", "1MiB", "--from", "access")
	far := &site{Cistern: lab.StartCistern(t, lab.CisternOptions{Upstreams: map[string]string{"docker.io": "http://127.0.0.1:1"}}), images: s.images}
	out, err := lab.Run(t.Context(), exec.Command(lab.Binary(t), "import", s.dir+"/rest.tar.000", "--admin", far.Admin))
	if err == nil || !strings.Contains(err.Error()+out, "import that one first") {
		t.Errorf("%s, %v", out, err)
	}
	far.cistern(t, "import", s.dir+"/first.tar", s.dir+"/rest.tar.000")
	for range 2 {
		crane := client.NewCrane(t)
		engines := map[string]client.Engine{"podman": client.NewPodman(t, client.Mirrors{"docker.io": far.Addr})}
		for name, e := range engines {
			far.pull(t, name, e)
		}
		for _, p := range s.images {
			if digest, err := crane.Run(t.Context(), "digest", far.Addr+"/"+p.Name); err != nil || digest != p.Digest {
				t.Errorf("%s is %s, %v; at the origin %s", p.Name, digest, err, p.Digest)
			}
		}
		far.Stop(t)
		far.Restart(t)
	}
	if _, err := os.Stat(s.dir + "/rest.tar.001"); err != nil {
		t.Error(err)
	}
}

// pull pulls all images and compares them with the origin's.
func (s *site) pull(t *testing.T, name string, e client.Engine) {
	t.Helper()
	for _, p := range s.images {
		err := e.Pull(context.WithoutCancel(t.Context()), "docker.io/"+p.Name)
		held := client.Held{}
		if err == nil {
			held, err = e.Holds(t.Context(), "docker.io/"+p.Name)
		}
		if err == nil {
			err = held.Compare(p)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
