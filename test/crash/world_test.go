package crash_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
)

const (
	repository = "lab/app"
	kib        = 1 << 10
	mib        = 1 << 20
	// poolSize is larger than the largest blob of the load, and makes it unlikely that two blobs begin at the same place.
	poolSize = 48 * mib
)

// A world is the truth: every blob and tag of one history, made from a seed. Blobs are windows into one pool of random
// bytes, so that thousands of them take no memory, and each differs from every other at each of its bytes.
type world struct {
	pool []byte

	mu       sync.Mutex // guards what follows; things are never changed
	rng      *rand.Rand
	byDigest map[string]*thing
	byTag    map[string]*thing
	blobs    []*thing
	tags     []*thing
}

// A thing is what a client can ask for by one URL: a blob, or a manifest by its tag.
type thing struct {
	tag    string // of a manifest
	digest string
	data   []byte
}

// path is where a client asks for the thing.
func (x *thing) path() string {
	if x.tag != "" {
		return "/v2/" + repository + "/manifests/" + x.tag
	}
	return "/v2/" + repository + "/blobs/" + x.digest
}

func (x *thing) size() int64 { return int64(len(x.data)) }

func newPool(seed uint64, size int) []byte {
	pool := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, "pool ", seed))).Read(pool)
	return pool
}

func newWorld(pool []byte, rng *rand.Rand) *world {
	return &world{pool: pool, rng: rng, byDigest: map[string]*thing{}, byTag: map[string]*thing{}}
}

// newBlob adds a blob: mostly small ones, as in real registries, some on both sides of what the daemon holds in memory
// until it is verified (256 KiB), a few large ones that are still on their way when the process dies.
func (w *world) newBlob() *thing {
	w.mu.Lock()
	defer w.mu.Unlock()
	var size int
	switch p := w.rng.IntN(100); {
	case p < 66:
		size = 200 + w.rng.IntN(48*kib)
	case p < 84:
		size = 128*kib + w.rng.IntN(256*kib)
	case p < 96:
		size = 384*kib + w.rng.IntN(1*mib)
	default:
		size = 3*mib + w.rng.IntN(7*mib)
	}
	return w.addBlob(size)
}

// addBlob adds a blob of that size. mu is held.
func (w *world) addBlob(size int) *thing {
	from := w.rng.IntN(len(w.pool) - size)
	x := &thing{data: w.pool[from : from+size : from+size]}
	x.digest = digest(x.data)
	w.byDigest[x.digest] = x
	w.blobs = append(w.blobs, x)
	return x
}

// newTag adds an image of blobs that are in the world under a tag that never moves.
func (w *world) newTag() *thing {
	w.mu.Lock()
	defer w.mu.Unlock()
	layers := []map[string]any{}
	config := w.addBlob(600)
	for range 1 + w.rng.IntN(3) {
		layers = append(layers, descriptor(w.blobs[w.rng.IntN(len(w.blobs))], "application/vnd.oci.image.layer.v1.tar"))
	}
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": descriptor(config, "application/vnd.oci.image.config.v1+json"), "layers": layers,
	})
	if err != nil {
		panic(err)
	}
	x := &thing{tag: fmt.Sprintf("t%d", len(w.tags)), digest: digest(raw), data: raw}
	w.byDigest[x.digest], w.byTag[x.tag] = x, x
	w.tags = append(w.tags, x)
	return x
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func descriptor(x *thing, media string) map[string]any {
	return map[string]any{"mediaType": media, "digest": x.digest, "size": x.size()}
}

// find is what an upstream has under a digest or a tag.
func (w *world) find(reference string) *thing {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.byTag[reference]; x != nil {
		return x
	}
	return w.byDigest[reference]
}

// all are the blobs, and the manifests by tag, in the order in which they were made.
func (w *world) all() []*thing {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append(append([]*thing{}, w.blobs...), w.tags...)
}

// bytes is how much there is.
func (w *world) bytes() (n int64) {
	for _, x := range w.all() {
		n += x.size()
	}
	return n
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
