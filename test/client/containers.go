package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cistern/test/lab"
)

// Podman is podman with a store of its own.
type Podman struct {
	dir, conf string
}

// NewPodman prepares podman with the mirrors in its registries.conf.
func NewPodman(t testing.TB, mirrors Mirrors) *Podman {
	t.Helper()
	dir := newHome(t)
	return &Podman{dir: dir, conf: registriesConf(t, dir, mirrors)}
}

func (p *Podman) run(ctx context.Context, args ...string) (string, error) {
	cmd := command(p.dir, "podman", append([]string{"--root", p.dir + "/root", "--runroot", p.dir + "/run", "--tmpdir", p.dir + "/tmp",
		"--cgroup-manager", "cgroupfs", "--events-backend", "none"}, args...)...)
	cmd.Env = append(cmd.Env, "CONTAINERS_REGISTRIES_CONF="+p.conf)
	return lab.Run(ctx, cmd)
}

// Pull is podman pull.
func (p *Podman) Pull(ctx context.Context, name string) error {
	_, err := p.run(ctx, "pull", "--quiet", "--signature-policy", p.dir+"/policy.json", "--platform", "linux/amd64", name)
	return err
}

// Holds is podman image inspect.
func (p *Podman) Holds(ctx context.Context, name string) (Held, error) {
	out, err := p.run(ctx, "image", "inspect", name)
	if err != nil {
		return Held{}, err
	}
	var found []struct {
		ID     string `json:"Id"`
		Digest string
		RootFS struct{ Layers []string }
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil || len(found) != 1 {
		return Held{}, fmt.Errorf("image inspect: %v: %s", err, out)
	}
	return Held{Digest: found[0].Digest, Config: "sha256:" + found[0].ID, DiffIDs: found[0].RootFS.Layers}, nil
}

// Forget is podman image rm.
func (p *Podman) Forget(ctx context.Context, name string) error {
	_, err := p.run(ctx, "image", "rm", "--force", name)
	return err
}

// Skopeo copies images into folders.
type Skopeo struct {
	dir, conf string
}

// NewSkopeo prepares skopeo with the mirrors in its registries.conf.
func NewSkopeo(t testing.TB, mirrors Mirrors) *Skopeo {
	t.Helper()
	dir := newHome(t)
	return &Skopeo{dir: dir, conf: registriesConf(t, dir, mirrors)}
}

func (s *Skopeo) folder(name string) string { return filepath.Join(s.dir, flat(name)) }

// Pull copies the image, with all its platforms, into a folder as it is.
func (s *Skopeo) Pull(ctx context.Context, name string) error {
	_, err := lab.Run(ctx, command(s.dir, "skopeo", "--registries-conf", s.conf, "--policy", s.dir+"/policy.json",
		"copy", "--all", "docker://"+name, "dir:"+s.folder(name)))
	return err
}

// Holds hashes the files of the folder.
func (s *Skopeo) Holds(_ context.Context, name string) (Held, error) {
	return hashFolder(s.folder(name))
}

// Forget removes the folder.
func (s *Skopeo) Forget(_ context.Context, name string) error { return os.RemoveAll(s.folder(name)) }

// hashFolder reads what skopeo's dir: transport has written: manifest.json, and blobs named by their digest.
func hashFolder(dir string) (Held, error) {
	var h Held
	files, err := os.ReadDir(dir)
	if err != nil {
		return h, err
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return h, err
		}
		sum := sha256.Sum256(b)
		digest := hex.EncodeToString(sum[:])
		switch {
		case f.Name() == "manifest.json":
			h.Digest = "sha256:" + digest
		case f.Name() == digest:
			h.Blobs = append(h.Blobs, "sha256:"+digest)
		case len(f.Name()) == len(digest):
			return h, fmt.Errorf("%s holds sha256:%s", f.Name(), digest)
		}
	}
	return h, nil
}

// flat makes a folder's name of an image's.
func flat(name string) string { return strings.NewReplacer("/", "_", ":", "_", "@", "_").Replace(name) }
