package pull_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cistern/test/client"
	"cistern/test/image"
	"cistern/test/lab"
)

// An engine is a kind of client and how it names images.
type engine struct {
	name  string
	start func(t testing.TB, proxy string) client.Engine
	// names are the forms of an image's name that lead to the proxy, the first one is used for everything. %s is the
	// image's; PROXY the proxy's address. A form with another registry than docker.io is another upstream of the daemon.
	names []string
	// without are images that this client cannot take from any registry.
	without []string
	// newest engines are built from source, which takes minutes: E2E_FULL=0 leaves them out.
	newest bool
}

// TestPulls runs every client against one origin: cold, warm, under each form of a name, and with the origin gone.
func TestPulls(t *testing.T) {
	o := fill(t)
	for _, e := range engines() {
		if e.newest && os.Getenv("E2E_FULL") == "0" {
			t.Logf("left out because of E2E_FULL=0: %s", e.name)
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			testEngine(t, o, e)
		})
	}
}

// newest is a search path with Docker Engine 29, containerd 2 and its shim.
func newest(t testing.TB) string {
	t.Helper()
	return filepath.Dir(lab.Tool(t, "dockerd")) + ":" + filepath.Dir(lab.Tool(t, "containerd"))
}

func engines() []engine {
	mirrored := []string{"docker.io/%s", "ghcr.io/%s", "PROXY/%s", "PROXY/ghcr.io/%s"}
	return []engine{
		{
			name: "docker-20", names: []string{"docker.io/%s", "PROXY/%s", "PROXY/ghcr.io/%s"},
			// Engines before 23 read zstd layers as broken tar archives.
			without: []string{"lab/zstd:1"},
			start: func(t testing.TB, proxy string) client.Engine {
				return client.StartDocker(t, []string{"http://" + proxy}, client.DockerOptions{})
			},
		},
		{
			name: "containerd-1.6", names: mirrored,
			start: func(t testing.TB, proxy string) client.Engine {
				return client.StartContainerd(t, client.Mirrors{"docker.io": proxy, "ghcr.io": proxy}, client.ContainerdOptions{})
			},
		},
		{
			name: "docker-29-containerd-store", names: []string{"docker.io/%s", "PROXY/%s", "PROXY/ghcr.io/%s"}, newest: true,
			start: func(t testing.TB, proxy string) client.Engine {
				return client.StartDocker(t, []string{"http://" + proxy}, client.DockerOptions{Path: newest(t), ContainerdStore: true})
			},
		},
		{
			name: "docker-29-classic-store", names: []string{"docker.io/%s", "PROXY/%s", "PROXY/ghcr.io/%s"}, newest: true,
			start: func(t testing.TB, proxy string) client.Engine {
				return client.StartDocker(t, []string{"http://" + proxy}, client.DockerOptions{Path: newest(t)})
			},
		},
		{
			name: "containerd-2", names: mirrored, newest: true,
			start: func(t testing.TB, proxy string) client.Engine {
				return client.StartContainerd(t, client.Mirrors{"docker.io": proxy, "ghcr.io": proxy}, client.ContainerdOptions{Path: newest(t)})
			},
		},
		{
			name: "podman", names: mirrored,
			start: func(t testing.TB, proxy string) client.Engine { return client.NewPodman(t, mirrors(proxy)) },
		},
		{
			name: "skopeo", names: mirrored,
			start: func(t testing.TB, proxy string) client.Engine { return client.NewSkopeo(t, mirrors(proxy)) },
		},
		{
			name: "crane", names: []string{"PROXY/%s", "PROXY/ghcr.io/%s"},
			start: func(t testing.TB, _ string) client.Engine { return client.NewCrane(t) },
		},
	}
}

// mirrors is for clients without ns: each registry is a path on the proxy.
func mirrors(proxy string) client.Mirrors {
	return client.Mirrors{"docker.io": proxy, "ghcr.io": proxy + "/ghcr.io"}
}

func testEngine(t *testing.T, o *origin, e engine) {
	front := lab.NewFront(t, o.url)
	cistern := lab.StartCistern(t, lab.CisternOptions{
		Upstreams: map[string]string{"docker.io": front.URL, "ghcr.io": front.URL},
	})
	c := e.start(t, cistern.Addr)
	pull := func(form string, p *image.Pushed) {
		t.Helper()
		name := strings.ReplaceAll(fmt.Sprintf(form, p.Name), "PROXY", cistern.Addr)
		if err := c.Pull(t.Context(), name); err != nil {
			t.Fatalf("pull: %v\nthe origin was asked:\n%v", err, front.Requests())
		}
		held, err := c.Holds(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if err := held.Compare(p); err != nil {
			t.Error(err)
		}
		if err := c.Forget(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	images := o.without(e.without)
	first := e.names[0]

	for _, p := range images {
		front.Reset()
		pull(first, p)
		checkCold(t, front, p)
	}
	front.Reset()
	for _, p := range images {
		pull(first, p)
	}
	for _, x := range front.Requests() {
		t.Errorf("a warm pull asked the origin: %v", x)
	}
	for _, form := range e.names[1:] {
		for _, p := range images {
			pull(form, p)
		}
	}
	if gets, _ := front.Bodies(); len(gets) > 0 {
		t.Errorf("blobs fetched again under another name: %v", gets)
	}
	front.Down()
	for _, form := range e.names {
		for _, p := range images {
			pull(form, p)
		}
	}
}

// checkCold looks at what one cold pull cost the origin: every blob one body, every manifest one, no HEAD for a blob.
func checkCold(t *testing.T, front *lab.Front, p *image.Pushed) {
	t.Helper()
	gets, _ := front.Bodies()
	for _, b := range p.Blobs() {
		if gets[b] != 1 {
			t.Errorf("%s: blob %s was fetched %d times", p.Name, b, gets[b])
		}
	}
	asked := map[string]int{}
	for _, x := range front.Requests() {
		asked[x.Method+" "+x.Path]++
		if x.Method == http.MethodHead && x.Kind() == "blobs" {
			t.Errorf("%s: %v", p.Name, x)
		}
	}
	for request, n := range asked {
		if n > 1 && request != "GET /v2/" {
			t.Errorf("%s: the origin got %d times %s", p.Name, n, request)
		}
	}
}
