package proxy

import (
	"net/url"
	"testing"

	"cistern/internal/oci"
	"cistern/upstream"
)

func testRoutes(t *testing.T, standard string, names ...string) *routes {
	t.Helper()
	var ups []Upstream
	for _, name := range names {
		u, err := upstream.New(upstream.Options{Name: name, Endpoints: []string{"http://127.0.0.1:1"}, Network: "private"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(u.Close)
		ups = append(ups, Upstream{Client: u})
	}
	return newRoutes(ups, standard, map[string]string{"index.docker.io": "docker.io", "registry-1.docker.io": "docker.io"}, nil)
}

// TestResolve has every row of P 2.34 and what may go wrong with it.
func TestResolve(t *testing.T) {
	t.Parallel()
	rt := testRoutes(t, "docker.io", "docker.io", "ghcr.io", "10.0.0.5:5000", "localhost:5001", "corp")
	for path, want := range map[string]string{ // "" stands for a 404
		// No upstream named: the default one, in mirror mode.
		"/v2/library/nginx/manifests/1": "docker.io library/nginx mirror",
		"/v2/nginx/manifests/1":         "docker.io library/nginx mirror",
		"/v2/a/b/c/manifests/1":         "docker.io a/b/c mirror",
		// containerd hosts.toml: ns.
		"/v2/library/nginx/manifests/1?ns=docker.io":       "docker.io library/nginx mirror",
		"/v2/nginx/manifests/1?ns=docker.io":               "docker.io library/nginx mirror",
		"/v2/library/nginx/manifests/1?ns=index.docker.io": "docker.io library/nginx mirror",
		"/v2/nginx/manifests/1?ns=registry-1.docker.io":    "docker.io library/nginx mirror",
		"/v2/org/x/manifests/1?ns=ghcr.io":                 "ghcr.io org/x mirror",
		"/v2/x/manifests/1?ns=ghcr.io":                     "ghcr.io x mirror",
		"/v2/x/manifests/1?ns=10.0.0.5:5000":               "10.0.0.5:5000 x mirror",
		"/v2/x/manifests/1?ns=10.0.0.5%3A5000":             "10.0.0.5:5000 x mirror",
		"/v2/x/manifests/1?ns=corp":                        "corp x mirror",
		// Our own name is none (P 2.33).
		"/v2/nginx/manifests/1?ns=mirror.example:5000": "docker.io library/nginx mirror",
		// A prefix before /v2: dockerd, hosts.toml.
		"/ghcr.io/v2/org/x/manifests/1":              "ghcr.io org/x mirror",
		"/docker.io/v2/nginx/manifests/1":            "docker.io library/nginx mirror",
		"/corp/v2/x/manifests/1":                     "corp x mirror",
		"/ghcr.io/v2/org/x/manifests/1?ns=ghcr.io":   "ghcr.io org/x mirror",
		"/ghcr.io/v2/org/x/manifests/1?ns=docker.io": "",
		"/other.io/v2/org/x/manifests/1":             "",
		"/a/b/v2/org/x/manifests/1":                  "",
		// A host in the path: override_path, k3s, buildkitd with ns; podman, crane, docker pull without.
		"/v2/ghcr.io/org/x/manifests/1":                      "ghcr.io org/x direct",
		"/v2/ghcr.io/x/manifests/1":                          "ghcr.io x direct",
		"/v2/docker.io/nginx/manifests/1":                    "docker.io library/nginx direct",
		"/v2/index.docker.io/nginx/manifests/1":              "docker.io library/nginx direct",
		"/v2/docker.io/library/nginx/manifests/1":            "docker.io library/nginx direct",
		"/v2/10.0.0.5:5000/x/manifests/1":                    "10.0.0.5:5000 x direct",
		"/v2/localhost:5001/x/manifests/1":                   "localhost:5001 x direct",
		"/v2/ghcr.io/org/x/manifests/1?ns=ghcr.io":           "ghcr.io org/x mirror",
		"/v2/docker.io/nginx/manifests/1?ns=docker.io":       "docker.io library/nginx mirror",
		"/v2/docker.io/nginx/manifests/1?ns=index.docker.io": "docker.io library/nginx mirror",
		"/v2/ghcr.io/org/x/manifests/1?ns=docker.io":         "",
		"/ghcr.io/v2/docker.io/x/manifests/1":                "",
		"/ghcr.io/v2/ghcr.io/org/x/manifests/1":              "ghcr.io org/x mirror",
		// Unknown upstreams are not dialled.
		"/v2/quay.io/org/x/manifests/1":             "",
		"/v2/localhost/x/manifests/1":               "",
		"/v2/169.254.169.254/x/manifests/1":         "",
		"/v2/x/manifests/1?ns=quay.io":              "",
		"/v2/x/manifests/1?ns=169.254.169.254":      "",
		"/v2/x/manifests/1?ns=localhost:22":         "",
		"/v2/x/manifests/1?ns=DOCKER.IO/../..":      "",
		"/v2/ghcr.io.evil/org/x/manifests/1":        "",
		"/v2/ghcr.io:443/org/x/manifests/1":         "",
		"/v2/mirror.example:5000/nginx/manifests/1": "",
		"/v2/corp/x/manifests/1":                    "docker.io corp/x mirror",      // a label is reached by ns or prefix
		"/v2/some.thing/x/manifests/1?ns=ghcr.io":   "ghcr.io some.thing/x mirror",  // a name with a dot in it
		"/v2/x.y/manifests/1":                       "docker.io library/x.y mirror", // nothing behind it: a name
		"/v2/localhost/x/manifests/1?ns=ghcr.io":    "ghcr.io localhost/x mirror",
	} {
		u, err := url.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := oci.ParseRequest(u)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		got := ""
		tg, err := rt.resolve(r, "mirror.example:5000")
		if err == nil {
			got = tg.up.Client.Name() + " " + tg.repo + map[bool]string{true: " direct", false: " mirror"}[tg.direct]
			if &rt.upstreams[tg.index] != tg.up {
				t.Errorf("%s: index %d is of another upstream", path, tg.index)
			}
		} else if e, ok := err.(*oci.Error); !ok || e.Status() != 404 || e.Code != oci.CodeNameUnknown {
			t.Errorf("%s: %v", path, err)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// TestResolveWithoutDefault: what names no upstream has none.
func TestResolveWithoutDefault(t *testing.T) {
	t.Parallel()
	rt := testRoutes(t, "", "ghcr.io")
	for path, ok := range map[string]bool{"/v2/x/manifests/1": false, "/v2/x/manifests/1?ns=ghcr.io": true, "/v2/ghcr.io/x/manifests/1": true, "/v2/x/manifests/1?ns=me:5000": false} {
		u, _ := url.Parse(path)
		r, err := oci.ParseRequest(u)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rt.resolve(r, "me:5000"); (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
	}
}
