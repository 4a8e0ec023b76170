package client

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cistern/test/lab"
)

// Crane is crane, which knows no mirrors: names must hold the proxy's address.
type Crane struct {
	path, dir string
}

// NewCrane prepares crane.
func NewCrane(t testing.TB) *Crane {
	t.Helper()
	return &Crane{path: lab.Tool(t, "crane"), dir: newHome(t)}
}

// Run runs any subcommand.
func (c *Crane) Run(ctx context.Context, args ...string) (string, error) {
	out, err := lab.Run(ctx, command(c.dir, c.path, append([]string{"--insecure"}, args...)...))
	return strings.TrimSpace(out), err
}

func (c *Crane) folder(name string) string { return filepath.Join(c.dir, flat(name)) }

// Pull writes the image with all its platforms as an OCI layout.
func (c *Crane) Pull(ctx context.Context, name string) error {
	_, err := c.Run(ctx, "pull", "--format=oci", name, c.folder(name))
	return err
}

// Holds asks for the digest and hashes the layout.
func (c *Crane) Holds(ctx context.Context, name string) (Held, error) {
	digest, err := c.Run(ctx, "digest", name)
	if err != nil {
		return Held{}, err
	}
	h, err := hashFolder(filepath.Join(c.folder(name), "blobs", "sha256"))
	h.Digest = digest
	return h, err
}

// Forget removes the layout.
func (c *Crane) Forget(_ context.Context, name string) error { return os.RemoveAll(c.folder(name)) }
