package client

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cistern/test/lab"
)

// Containerd is a containerd of the test's own, spoken to with ctr.
type Containerd struct {
	*lab.Process
	ctr, dir, socket, hosts string
	plain                   string // host that is spoken to directly, over plain HTTP
}

// ContainerdOptions name another containerd than the installed one.
type ContainerdOptions struct {
	// Path is where containerd and its shim are looked for before PATH; empty: the installed ones.
	Path string
	// Chunk, if set, has containerd 2.1 and later fetch a layer in parallel chunks of so many bytes.
	Chunk int
}

// StartContainerd starts a containerd with a hosts.toml for each mirrored registry (so that requests carry ns) and waits
// until it answers. What a mirror does not answer goes to a port where nothing listens.
func StartContainerd(t testing.TB, mirrors Mirrors, o ContainerdOptions) *Containerd {
	t.Helper()
	dir := newHome(t)
	c := &Containerd{dir: dir, socket: dir + "/s", ctr: installed("ctr", o.Path), hosts: filepath.Join(dir, "hosts")}
	for registry, proxy := range mirrors {
		lab.Write(t, filepath.Join(c.hosts, registry, "hosts.toml"), fmt.Sprintf(
			"server = \"http://127.0.0.1:1\"\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+proxy))
		c.plain, _, _ = strings.Cut(proxy, "/")
	}
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"+
		"[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n", dir+"/root", dir+"/state", c.socket, c.socket+".ttrpc")
	if o.Chunk > 0 {
		config += fmt.Sprintf("[plugins.\"io.containerd.transfer.v1.local\"]\n  max_concurrent_downloads = 4\n  concurrent_layer_fetch_buffer = %d\n", o.Chunk)
	}
	lab.Write(t, dir+"/config.toml", config)
	cmd := exec.Command(installed("containerd", o.Path), "--config", dir+"/config.toml")
	cmd.Env = home(dir, searchPath(o.Path))
	c.Process = lab.Start(t, "containerd", cmd)
	lab.Eventually(t, time.Minute, c.Process, func() error {
		_, err := c.run(context.Background(), "version")
		return err
	})
	return c
}

func (c *Containerd) run(ctx context.Context, args ...string) (string, error) {
	return lab.Run(ctx, command(c.dir, c.ctr, append([]string{"--address", c.socket, "--namespace", "lab"}, args...)...))
}

// Pull is ctr images pull, by the hosts.toml of the name's registry, or straight to the proxy over plain HTTP where the name
// begins with the proxy's address.
func (c *Containerd) Pull(ctx context.Context, name string) error {
	args := []string{"images", "pull", "--platform", "linux/amd64"}
	if strings.HasPrefix(name, c.plain+"/") {
		args = append(args, "--plain-http")
	} else {
		args = append(args, "--hosts-dir", c.hosts)
	}
	_, err := c.run(ctx, append(args, name)...)
	return err
}

// Holds lists image and content, after ctr images check found the image complete.
func (c *Containerd) Holds(ctx context.Context, name string) (Held, error) {
	check, err := c.run(ctx, "images", "check", "name=="+name)
	if err != nil {
		return Held{}, err
	}
	if !strings.Contains(check, " complete ") {
		return Held{}, fmt.Errorf("images check: %s", check)
	}
	list, err := c.run(ctx, "images", "ls", "name=="+name)
	if err != nil {
		return Held{}, err
	}
	var h Held
	for _, f := range strings.Fields(list) {
		if strings.HasPrefix(f, "sha256:") {
			h.Digest = f
		}
	}
	content, err := c.run(ctx, "content", "ls", "-q")
	h.Blobs = strings.Fields(content)
	return h, err
}

// Forget removes the image and waits until its content is collected.
func (c *Containerd) Forget(ctx context.Context, name string) error {
	_, err := c.run(ctx, "images", "rm", "--sync", name)
	return err
}
