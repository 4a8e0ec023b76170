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

// StartContainerd starts a containerd with a hosts.toml for each mirrored registry (so that requests carry ns) and waits
// until it answers. The path is where containerd is
// looked for before PATH. What a mirror
// does not answer goes to a port where nothing listens.
func StartContainerd(t testing.TB, mirrors Mirrors, path string) *Containerd {
	t.Helper()
	dir := newHome(t)
	c := &Containerd{dir: dir, socket: dir + "/s", ctr: installed("ctr", path), hosts: filepath.Join(dir, "hosts")}
	for registry, proxy := range mirrors {
		lab.Write(t, filepath.Join(c.hosts, registry, "hosts.toml"), fmt.Sprintf(
			"server = \"http://127.0.0.1:1\"\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+proxy))
		c.plain, _, _ = strings.Cut(proxy, "/")
	}
	lab.Write(t, dir+"/config.toml", fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"+
		"[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n", dir+"/root", dir+"/state", c.socket, c.socket+".ttrpc"))
	cmd := exec.Command(installed("containerd", path), "--config", dir+"/config.toml")
	cmd.Env = home(dir, searchPath(path))
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
