// Package pull_test pulls real images with real container clients through the real daemon from a real registry, and
// compares digests and what the origin was asked.
package pull_test

import (
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"cistern/test/image"
	"cistern/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// origin is a registry with images.
type origin struct {
	addr, url string
	images    []*image.Pushed
}

// fill starts a registry and pushes the images to it.
func fill(t *testing.T, specs ...image.Spec) *origin {
	t.Helper()
	registry := lab.StartRegistry(t, lab.RegistryOptions{})
	o := &origin{addr: registry.Addr, url: registry.URL}
	if specs == nil {
		specs = image.Set()
	}
	for _, s := range specs {
		p, err := image.Push(lab.Dir(t), registry.Addr, s, authn.Anonymous)
		if err != nil {
			t.Fatal(err)
		}
		o.images = append(o.images, p)
	}
	return o
}

// without is the images but the named ones.
func (o *origin) without(names []string) []*image.Pushed {
	return slices.DeleteFunc(slices.Clone(o.images), func(p *image.Pushed) bool { return slices.Contains(names, p.Name) })
}
