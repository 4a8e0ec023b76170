package oci

import (
	"strings"
	"testing"
)

func TestManifest(t *testing.T) {
	t.Parallel()
	d := FromBytes([]byte("x")).String()
	m, err := ParseManifest([]byte(`{"config":{"digest":"` + d + `","size":1},"layers":[{"digest":"` + d + `","mediaType":"a.foreign.b"},{"size":3}],
		"manifests":[{"digest":"` + d + `","platform":{"os":"linux","architecture":"arm64","variant":"v8"}},{"digest":"` + d + `"}]}`))
	if err != nil || len(m.Content()) != 1 || m.Content()[0].Descriptor().Size != 1 || !m.Unnamed() {
		t.Errorf("%+v, %v", m, err)
	}
	if m.Manifests[0].PlatformName() != "linux/arm64/v8" || m.Manifests[1].PlatformName() != "?" {
		t.Errorf("%q, %q", m.Manifests[0].PlatformName(), m.Manifests[1].PlatformName())
	}
	m.Layers = nil
	if m.Unnamed() {
		t.Error("all is named")
	}
	for _, bad := range []string{``, `[]`, strings.Replace(`{"layers":[{"digest":"DIGEST"}]}`, "DIGEST", "sha256:12", 1)} {
		if _, err := ParseManifest([]byte(bad)); err == nil {
			t.Errorf("%q is a manifest", bad)
		}
	}
}
