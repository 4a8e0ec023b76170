package trace

import (
	"math"
	"slices"
)

// image is what a tag stands for on one platform.
type image struct {
	index    int32 // None if the tag names the manifest itself
	manifest int32
	config   int32
	layers   []int32 // bottom first
	base     int     // in catalogue.bases
	shared   int     // how many of the layers are the base's
	// attestation is what a scanner asks for beside it; None if there is none.
	attestation int32
}

// repo is a repository: the images of its tags, the first being the newest.
type repo struct {
	ai   bool
	tags []image
}

// catalogue is what can be pulled.
type catalogue struct {
	repos []repo
	bases [][]int32
}

// The empty layer is in most images, and the same in all.
const (
	emptyLayer     = 0
	emptyLayerSize = 32
	withEmpty      = 0.58
	multiPlatform  = 0.6  // share of tags that are an index: assumed
	withAttested   = 0.38 // of those
)

// What one image of each repository must come to, since a few layers of gigabytes
// decide it: logical over distinct bytes, found was 1.25; and the mean layer, found
// was 70 MB, 40 to 70 in what is asked for today. Of a few images neither is wanted.
const (
	sharingMin, sharingMax     = 1.15, 1.35
	meanLayerMin, meanLayerMax = 40e6, 70e6
	manyRepos                  = 100
	catalogueTries             = 1000
)

// newCatalogue makes general repositories, then AI ones, with so many tags each.
// What is drawn is drawn again until the images are like those that were found;
// Check tells if that was in vain.
func newCatalogue(m *maker, general, ai, tags int) *catalogue {
	n := general + ai
	objects := len(m.t.Objects)
	for try := 0; ; try++ {
		m.t.Objects = m.t.Objects[:objects]
		c := &catalogue{bases: make([][]int32, max(1, n/20))}
		for b := range c.bases {
			c.bases[b] = m.layers(m.layerSizes(general == 0), between(m.rng, 1, 3))
		}
		popular := newZipf(len(c.bases), 1)
		for i := range n {
			r := repo{ai: i >= general}
			r.tags = []image{c.first(m, r.ai, popular.draw(m.rng))}
			c.repos = append(c.repos, r)
		}
		sharing, mean := c.likeness(m)
		if n >= manyRepos && try < catalogueTries && (sharing < sharingMin || sharing > sharingMax || mean < meanLayerMin || mean > meanLayerMax) {
			continue
		}
		m.t.Sharing = sharing
		for i := range c.repos {
			r := &c.repos[i]
			for len(r.tags) < tags {
				r.tags = append(r.tags, c.moved(m, r.tags[len(r.tags)-1]))
			}
		}
		return c
	}
}

// first makes an image from nothing but its base.
func (c *catalogue) first(m *maker, ai bool, base int) image {
	counts := layersOfGeneral
	if ai {
		counts = layersOfAI
	}
	n := max(1, int(counts.draw(m.rng)))
	im := image{base: base, shared: min(len(c.bases[base]), n-1)}
	im.layers = append(im.layers, c.bases[base][:im.shared]...)
	im.layers = append(im.layers, m.layers(m.layerSizes(ai), n-im.shared)...)
	if m.rng.Float64() < withEmpty {
		im.layers = append(im.layers, emptyLayer)
	}
	return m.seal(im, m.rng.Float64() < multiPlatform)
}

// moved is what a tag names after it moved: 37 % bring no new byte, 23 % are all
// new, the others any part.
func (c *catalogue) moved(m *maker, im image) image {
	switch p := m.rng.Float64(); {
	case p < 0.37:
		return im
	case p < 0.60:
		return m.renewed(im, 1)
	}
	return m.renewed(im, m.rng.Float64())
}

// rebuilt is im on its base as that is now, all else new, too.
func (c *catalogue) rebuilt(m *maker, im image) image {
	next := m.renewed(im, 1)
	next.shared = min(im.shared, len(c.bases[im.base]))
	copy(next.layers, c.bases[im.base][:next.shared])
	return next
}

// renewBases gives each base new layers.
func (c *catalogue) renewBases(m *maker) {
	for b, layers := range c.bases {
		fresh := make([]int32, len(layers))
		for i, l := range layers {
			fresh[i] = m.like(l)
		}
		c.bases[b] = fresh
	}
}

// likeness is logical over distinct bytes of the newest image of each repository,
// and its mean layer, the empty one left out.
func (c *catalogue) likeness(m *maker) (sharing, meanLayer float64) {
	seen := map[int32]bool{}
	var logical, distinct, layers int64
	for _, r := range c.repos {
		for _, l := range r.tags[0].layers {
			size := m.t.Objects[l].Size
			logical += size
			if !seen[l] {
				seen[l] = true
				distinct += size
			}
			if l != emptyLayer {
				layers++
			}
		}
	}
	return float64(logical) / float64(distinct), float64(logical) / float64(max(1, layers))
}

// renewed is im with new layers from the top down, until they are that share of its
// bytes: what is built last changes most often.
func (m *maker) renewed(im image, share float64) image {
	var total, fresh int64
	for _, l := range im.layers {
		total += m.t.Objects[l].Size
	}
	im.layers = slices.Clone(im.layers)
	for i := len(im.layers) - 1; i >= 0; i-- {
		if share < 1 && float64(fresh) >= share*float64(total) {
			break
		}
		if im.layers[i] == emptyLayer {
			continue
		}
		fresh += m.t.Objects[im.layers[i]].Size
		im.layers[i] = m.like(im.layers[i])
		im.shared = min(im.shared, i)
	}
	return m.seal(im, im.index != None)
}

// seal gives an image the manifest, the config and, if there is one, the index that
// its layers want.
func (m *maker) seal(im image, multi bool) image {
	im.config = m.object(Blob, configs.draw(m.rng))
	im.manifest = m.object(Manifest, manifests.draw(m.rng))
	im.index, im.attestation = None, None
	if multi {
		im.index = m.object(Manifest, indexes.draw(m.rng))
		if m.rng.Float64() < withAttested {
			im.attestation = m.object(Blob, attestations.draw(m.rng))
		}
	}
	return im
}

func (m *maker) layerSizes(ai bool) curve {
	if ai {
		return aiLayers
	}
	return generalLayers
}

func (m *maker) layers(sizes curve, n int) (layers []int32) {
	for range n {
		layers = append(layers, m.object(Blob, sizes.draw(m.rng)))
	}
	return layers
}

// like makes a layer of about the size of another, as the same step of a build
// makes the next time.
func (m *maker) like(layer int32) int32 {
	size := float64(m.t.Objects[layer].Size) * math.Exp(0.1*m.rng.NormFloat64())
	return m.object(Blob, max(emptyLayerSize, int64(size)))
}
