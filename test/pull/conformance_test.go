package pull_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"cistern/test/client"
	"cistern/test/image"
	"cistern/test/lab"
)

// TestConformance runs the distribution-spec's own program, read-only, through the proxy, cold and warm: as the default upstream and with
// the upstream in the path. (What is served with the origin gone, TestPulls shows.)
func TestConformance(t *testing.T) {
	t.Parallel()
	o := fill(t, image.Set()[1], image.Set()[3])
	front := lab.NewFront(t, o.url)
	cistern := lab.StartCistern(t, lab.CisternOptions{Upstreams: map[string]string{"docker.io": front.URL, "ghcr.io": front.URL}})
	for _, prefix := range []string{"", "ghcr.io/"} {
		for _, state := range []string{"cold", "warm"} {
			conform(t, prefix+" "+state, cistern.Addr, prefix, o.images[1])
		}
	}
	crane := client.NewCrane(t)
	if _, err := crane.Run(t.Context(), "validate", "--remote", cistern.Addr+"/lab/six:1"); err != nil {
		t.Error(err)
	}
}

// parts are what the report must say of itself for the run to have tested anything.
var parts = []string{"Test: Pass", "/ping: Pass", "/read-only: Pass", "/tag-list: Pass", "/manifest-by-digest: Pass", "/blob-get: Pass",
	"/missing-manifest: Pass", "/invalid-digest-format: Pass"}

// conform runs the program and reads its printed report: this version panics while it writes the report's files. In read-only mode
// it looks for manifests' digest headers in an answer that it did not keep, so that is left to the other tests.
func conform(t *testing.T, name, host, prefix string, p *image.Pushed) {
	t.Helper()
	dir := lab.Dir(t)
	cmd := exec.Command(lab.Tool(t, "conformance"))
	repo, tag, _ := strings.Cut(p.Name, ":")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"OCI_VERSION=1.1", "OCI_REGISTRY="+host, "OCI_TLS=disabled", "OCI_REPO1="+prefix+repo, "OCI_REPO2="+prefix+"lab/six",
		"OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
		"OCI_API_TAGS_LIST=true", "OCI_API_REFERRER=false", "OCI_API_MANIFESTS_DIGEST_HEADER=false", "OCI_API_BLOBS_DIGEST_HEADER=true",
		"OCI_RO_DATA_TAGS="+tag, "OCI_RO_DATA_MANIFESTS="+strings.Join(append([]string{p.Digest}, p.Children...), " "),
		"OCI_RO_DATA_BLOBS="+strings.Join(p.Blobs(), " "), "OCI_RESULTS_DIR="+dir)
	out, err := lab.Run(t.Context(), cmd)
	for _, part := range parts {
		if !strings.Contains(out, part) {
			t.Errorf("%s: no %q in the report: %v\n%s", name, part, err, out)
		}
	}
	if strings.Contains(out, ": FAIL") || strings.Contains(out, ": Error") {
		t.Errorf("%s: failures in the report:\n%s", name, out)
	}
}
