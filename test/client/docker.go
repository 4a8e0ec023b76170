package client

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cistern/test/lab"
)

// Docker is a Docker Engine of the test's own and the command line to it.
type Docker struct {
	*lab.Process
	cli, dir, host string
	// containerdStore is true where the engine keeps images in containerd.
	containerdStore bool
}

// DockerOptions name another engine than the installed one.
type DockerOptions struct {
	// Path is where dockerd, containerd and the shim are looked for before PATH; empty: the installed ones.
	Path string
	// ContainerdStore chooses the image store of engines that have two.
	ContainerdStore bool
}

// StartDocker starts an Engine whose registry-mirrors are the given URLs, and waits until it answers. It has no
// bridge and makes no firewall rules.
func StartDocker(t testing.TB, mirrors []string, o DockerOptions) *Docker {
	t.Helper()
	dir := newHome(t)
	conf := map[string]any{"registry-mirrors": mirrors}
	daemon := installed("dockerd", o.Path)
	if o.Path != "" {
		conf["features"] = map[string]bool{"containerd-snapshotter": o.ContainerdStore}
	}
	text, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	lab.Write(t, filepath.Join(dir, "daemon.json"), string(text))
	d := &Docker{dir: dir, host: "unix://" + dir + "/s", cli: "/usr/bin/docker", containerdStore: o.ContainerdStore}
	cmd := exec.Command(daemon, "--config-file", dir+"/daemon.json", "--data-root", dir+"/data", "--exec-root", dir+"/exec",
		"--pidfile", dir+"/pid", "--host", d.host, "--iptables=false", "--ip6tables=false", "--bridge=none")
	cmd.Env = home(dir, searchPath(o.Path))
	d.Process = lab.Start(t, "dockerd", cmd)
	lab.Eventually(t, time.Minute, d.Process, func() error {
		_, err := d.run(context.Background(), "version", "--format", "{{.Server.Version}}")
		return err
	})
	return d
}

func (d *Docker) run(ctx context.Context, args ...string) (string, error) {
	out, err := lab.Run(ctx, command(d.dir, d.cli, append([]string{"--host", d.host}, args...)...))
	return strings.TrimSpace(out), err
}

// Pull is docker pull.
func (d *Docker) Pull(ctx context.Context, name string) error {
	_, err := d.run(ctx, "pull", "--platform", "linux/amd64", name)
	return err
}

// Holds is docker image inspect.
func (d *Docker) Holds(ctx context.Context, name string) (Held, error) {
	out, err := d.run(ctx, "image", "inspect", name)
	if err != nil {
		return Held{}, err
	}
	var found []struct {
		ID          string `json:"Id"`
		RepoDigests []string
		RootFS      struct{ Layers []string }
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil || len(found) != 1 || len(found[0].RepoDigests) != 1 {
		return Held{}, fmt.Errorf("image inspect: %v: %s", err, out)
	}
	_, digest, _ := strings.Cut(found[0].RepoDigests[0], "@")
	h := Held{Digest: digest, Config: found[0].ID, DiffIDs: found[0].RootFS.Layers}
	if d.containerdStore {
		h.Config = "" // there the id is the digest of the manifest or index
	}
	return h, nil
}

// Forget is docker image rm.
func (d *Docker) Forget(ctx context.Context, name string) error {
	_, err := d.run(ctx, "image", "rm", "--force", name)
	return err
}
