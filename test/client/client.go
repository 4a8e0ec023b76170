// Package client drives real container clients, each with stores and configuration of its own, through one
// interface: pull, say what you hold, forget it.
//
// It decides nothing about right and wrong: tests compare what a client holds with what the origin has.
package client

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cistern/test/image"
	"cistern/test/lab"
)

// An Engine is a container client with a store.
type Engine interface {
	// Pull gets the image for linux/amd64 under its name as a user would type it.
	Pull(ctx context.Context, name string) error
	// Holds says what is in the store under that name.
	Holds(ctx context.Context, name string) (Held, error)
	// Forget removes the image and all its content from the store.
	Forget(ctx context.Context, name string) error
}

// Held is what a client tells of an image; a client that does not know a field leaves it empty.
type Held struct {
	Digest  string   // that the name leads to
	Image   string   // of the platform's manifest
	Config  string   // of the platform's config
	Blobs   []string // compressed content in the store, at least the image's
	DiffIDs []string // unpacked layers
}

// Compare returns an error unless everything that the client tells is as the origin has it.
func (h Held) Compare(want *image.Pushed) error {
	one := func(field, got, origin string) error {
		if got != "" && got != origin {
			return fmt.Errorf("%s: %s is %s, at the origin %s", want.Name, field, got, origin)
		}
		return nil
	}
	if h.Digest == "" && h.Image == "" && h.Config == "" {
		return fmt.Errorf("%s: the client tells nothing", want.Name)
	}
	for _, err := range []error{
		one("digest", h.Digest, want.Digest), one("platform's manifest", h.Image, want.Image), one("config", h.Config, want.Config),
	} {
		if err != nil {
			return err
		}
	}
	if h.DiffIDs != nil && !slices.Equal(h.DiffIDs, want.DiffIDs) {
		return fmt.Errorf("%s: unpacked layers are %v, at the origin %v", want.Name, h.DiffIDs, want.DiffIDs)
	}
	if h.Blobs == nil {
		return nil
	}
	for _, b := range want.Blobs() {
		if !slices.Contains(h.Blobs, b) {
			return fmt.Errorf("%s: blob %s is missing in %v", want.Name, b, h.Blobs)
		}
	}
	return nil
}

// Mirrors tells a client which proxy stands in for which registry: registry name to the proxy's address,
// which may have a path ("127.0.0.1:10001/ghcr.io").
type Mirrors map[string]string

// home is an environment that holds nothing of the user's: no credentials, no configuration.
func home(dir string, extra ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(e string) bool {
		for _, p := range []string{"HOME=", "XDG_", "DOCKER_", "CONTAINER", "REGISTRY_AUTH_FILE="} {
			if strings.HasPrefix(e, p) {
				return true
			}
		}
		return false
	})
	return append(env, append([]string{"HOME=" + dir, "DOCKER_CONFIG=" + dir, "XDG_RUNTIME_DIR=" + dir}, extra...)...)
}

// newHome makes a folder for such an environment.
func newHome(t testing.TB) string {
	t.Helper()
	dir := lab.Dir(t)
	// podman wants it to be there once DOCKER_CONFIG is set.
	lab.Write(t, filepath.Join(dir, "config.json"), "{}")
	return dir
}

// command is a program with arguments in such an environment.
func command(dir, path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Env = dir, home(dir)
	return cmd
}

// registriesConf writes the containers-registries.conf of skopeo, podman and their family, and returns its path.
// Every proxy is spoken to over plain HTTP, by its own name too.
func registriesConf(t testing.TB, dir string, mirrors Mirrors) string {
	var b strings.Builder
	hosts := map[string]bool{}
	for registry, proxy := range mirrors {
		fmt.Fprintf(&b, "[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", registry, proxy)
		host, _, _ := strings.Cut(proxy, "/")
		hosts[host] = true
	}
	for host := range hosts {
		fmt.Fprintf(&b, "[[registry]]\nlocation = %q\ninsecure = true\n", host)
	}
	path := filepath.Join(dir, "registries.conf")
	lab.Write(t, path, b.String())
	lab.Write(t, filepath.Join(dir, "policy.json"), `{"default":[{"type":"insecureAcceptAnything"}]}`)
	return path
}

// installed finds a program along the path, then along PATH.
func installed(program, path string) string {
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, program)
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return program
}

// searchPath is PATH with path in front.
func searchPath(path string) string {
	return "PATH=" + strings.TrimPrefix(path+":"+os.Getenv("PATH"), ":")
}
