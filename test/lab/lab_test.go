package lab_test

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"cistern/test/image"
	"cistern/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// TestOrigin shows that the images can be made and pushed, and that the front counts what is asked of the origin.
func TestOrigin(t *testing.T) {
	t.Parallel()
	registry := lab.StartRegistry(t, lab.RegistryOptions{})
	front := lab.NewFront(t, registry.URL)
	for _, s := range image.Set() {
		if _, err := image.Push(lab.Dir(t), registry.Addr, s, authn.Anonymous); err != nil {
			t.Fatal(err)
		}
	}
	p, err := image.Push(lab.Dir(t), front.Addr, image.Set()[0], authn.Anonymous)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.PushArtifact(registry.Addr, "library/tiny:sbom", "library/tiny:1"); err != nil {
		t.Fatal(err)
	}
	t.Log(p, front.Requests())
	if len(front.Requests()) == 0 {
		t.Error("the front saw nothing")
	}
	front.Down()
	if _, err := image.Push(lab.Dir(t), front.Addr, image.Set()[0], authn.Anonymous); err == nil {
		t.Error("a front that is down let a push through")
	}
}
