package proxy

import (
	"testing"

	"cistern/internal/oci"
	"cistern/internal/registrytest"
	"cistern/upstream"
)

func TestImageNames(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	var ups []Upstream
	for _, name := range []string{"docker.io", "ghcr.io", "corp", "10.0.0.5:5000"} {
		u, err := upstream.New(upstream.Options{Name: name, Endpoints: []string{g.URL}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(u.Close)
		ups = append(ups, Upstream{Client: u})
	}
	h := New(Options{Upstreams: ups, Default: "docker.io", Aliases: map[string]string{"index.docker.io": "docker.io"}})
	digest := "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for in, want := range map[string]string{
		"nginx": "docker.io/library/nginx:", "nginx:1.27": "docker.io/library/nginx:1.27", "org/app:v1": "docker.io/org/app:v1",
		"index.docker.io/nginx": "docker.io/library/nginx:", "ghcr.io/org/x@" + digest: "ghcr.io/org/x@" + digest,
		"ghcr.io/x:v1@" + digest: "ghcr.io/x@" + digest, "corp/team/app:v2": "corp/team/app:v2", "corp/app": "corp/app:",
		"10.0.0.5:5000/x:v1": "10.0.0.5:5000/x:v1",
	} {
		if _, ref, err := h.image(in); err != nil || ref.String() != want {
			t.Errorf("%s is %s, %v, want %s", in, ref, err, want)
		}
	}
	for _, in := range []string{"", "quay.io/x", "UPPER", "a b", "nginx:", "ghcr.io/", "../x", "nginx@sha256:12"} {
		if _, ref, err := h.image(in); err == nil {
			t.Errorf("%q is taken for %s", in, ref)
		}
	}
	h = New(Options{Upstreams: ups, Default: "corp"})
	if _, ref, err := h.image("app:v1"); err != nil || ref.String() != "corp/app:v1" {
		t.Errorf("with another default: %s, %v", ref, err)
	}
}

// TestScopes: what a removal names is read as it is written.
func TestScopes(t *testing.T) {
	t.Parallel()
	u, err := upstream.New(upstream.Options{Name: "docker.io", Endpoints: []string{registrytest.New(t).URL}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	h := New(Options{Upstreams: []Upstream{{Client: u}}, Default: "docker.io", Aliases: map[string]string{"index.docker.io": "docker.io"}})
	digest, err := oci.ParseDigest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	if err != nil {
		t.Fatal(err)
	}
	hub := func(name, tag string) oci.Reference {
		return oci.Reference{Repository: oci.Repository{Upstream: "docker.io", Name: name}, Tag: tag}
	}
	for in, want := range map[string]oci.Reference{
		"docker.io/": hub("", ""), "index.docker.io/": hub("", ""), digest.String(): {Digest: digest},
		"gone.test:5000/": {Repository: oci.Repository{Upstream: "gone.test:5000"}}, "gone.test/app:v1": {Repository: oci.Repository{Upstream: "gone.test", Name: "app"}, Tag: "v1"},
		"nginx": hub("library/nginx", ""), "nginx/": hub("library/nginx", ""), "docker.io/org/app/": hub("org/app", ""),
		"docker.io": hub("library/docker.io", ""), "nginx:1": hub("library/nginx", "1"),
	} {
		if ref, err := h.scope(in); err != nil || ref != want {
			t.Errorf("%s is %+v, %v, want %+v", in, ref, err, want)
		}
	}
	for _, in := range []string{"", "/", "gone.test/UPPER", "sha256:12", "UPPER/"} {
		if ref, err := h.scope(in); err == nil {
			t.Errorf("%q is taken for %+v", in, ref)
		}
	}
}

// TestVersionHeader: it is on every reply under /v2, refusals included (P 1.18).
func TestVersionHeader(t *testing.T) {
	t.Parallel()
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": registrytest.New(t)}})
	for _, c := range [][2]string{{"GET", "/v2/"}, {"PUT", "/v2/x/manifests/v1"}, {"GET", "/v2/UPPER/manifests/v1"}, {"GET", "/v2/_catalog"}, {"GET", "/v2/x/manifests/none"}, {"DELETE", "/hub/v2/x/manifests/v1"}} {
		if a := r.do(c[0], c[1]); a.header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
			t.Errorf("%s %s: %d %v", c[0], c[1], a.status, a.header)
		}
	}
}
