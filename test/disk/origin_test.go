package disk_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cistern/test/lab"
)

const (
	kib        = 1 << 10
	mib        = 1 << 20
	repository = "lab/app"
	imageType  = "application/vnd.oci.image.manifest.v1+json"
)

// pool is random bytes that all blobs are windows into: hundreds of megabytes of blobs take no memory, and each differs
// from every other at each of its bytes.
var pool = sync.OnceValue(func() []byte {
	b := make([]byte, 32*mib)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte("cistern test/disk"))).Read(b)
	return b
})

// A blob is something that the origin has: a layer, or a manifest with a tag.
type blob struct {
	digest string
	tag    string // of a manifest
	data   []byte
	// gate, if any, holds an answer to a GET back once gateAt bytes of the blob are sent.
	gate   chan struct{}
	gateAt int64
}

// path is where a client asks for it.
func (b *blob) path() string {
	if b.tag != "" {
		return "/v2/" + repository + "/manifests/" + b.tag
	}
	return "/v2/" + repository + "/blobs/" + b.digest
}

// file is where the cache keeps it, below one of its two trees.
func (b *blob) file(tree string) string {
	hex := strings.TrimPrefix(b.digest, "sha256:")
	return path.Join(tree, "sha256", hex[:2], hex)
}

// An origin is the upstream: honest, unless it is told to send no lengths, to hold an answer back or to be off.
type origin struct {
	addr    string
	off     atomic.Bool // cuts every connection that asks
	chunked atomic.Bool // bodies come without their length
	offset  atomic.Int64

	mu       sync.Mutex // guards what follows
	byDigest map[string]*blob
	byTag    map[string]*blob
	bodies   map[string]int // GETs of each digest
}

// startOrigin serves on loopback until the test is over.
func startOrigin(t testing.TB) *origin {
	t.Helper()
	o := &origin{addr: lab.Addr(), byDigest: map[string]*blob{}, byTag: map[string]*blob{}, bodies: map[string]int{}}
	l, err := net.Listen("tcp", o.addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: o}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return o
}

// blob makes a blob of so many bytes.
func (o *origin) blob(size int) *blob {
	at := int(o.offset.Add(1)) * 61 % (len(pool()) - size)
	return o.add(&blob{data: pool()[at : at+size]})
}

// gated makes a blob of which the origin sends at bytes and no more before its gate is closed.
func (o *origin) gated(size int, at int64) *blob {
	b := o.blob(size)
	b.gate, b.gateAt = make(chan struct{}), at
	return b
}

// image makes the manifest of an image with these layers.
func (o *origin) image(tag string, layers ...*blob) *blob {
	describe := func(b *blob, media string) map[string]any {
		return map[string]any{"mediaType": media, "digest": b.digest, "size": len(b.data)}
	}
	config := o.add(&blob{data: fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Labels":{"tag":%q}}}`, tag)})
	m := map[string]any{"schemaVersion": 2, "mediaType": imageType, "config": describe(config, "application/vnd.oci.image.config.v1+json")}
	list := []any{}
	for _, l := range layers {
		list = append(list, describe(l, "application/vnd.oci.image.layer.v1.tar"))
	}
	m["layers"] = list
	raw, _ := json.Marshal(m) // maps of strings and numbers cannot fail
	return o.add(&blob{tag: tag, data: raw})
}

func (o *origin) add(b *blob) *blob {
	b.digest = fmt.Sprintf("sha256:%x", sha256.Sum256(b.data))
	o.mu.Lock()
	defer o.mu.Unlock()
	o.byDigest[b.digest] = b
	if b.tag != "" {
		o.byTag[b.tag] = b
	}
	return b
}

// asked is how many bodies of the blob were asked for.
func (o *origin) asked(b *blob) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bodies[b.digest]
}

// ServeHTTP answers as a registry does.
func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if o.off.Load() {
		panic(http.ErrAbortHandler)
	}
	if r.URL.Path == "/v2/" {
		return
	}
	name := path.Base(r.URL.Path)
	o.mu.Lock()
	b := o.byDigest[name]
	if b == nil {
		b = o.byTag[name]
	}
	if b != nil && r.Method == http.MethodGet {
		o.bodies[b.digest]++
	}
	o.mu.Unlock()
	if b == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if b.tag != "" {
		w.Header().Set("Content-Type", imageType)
	}
	w.Header().Set("Docker-Content-Digest", b.digest)
	if b.gate != nil && !o.hold(w, r, b) {
		return
	}
	if o.chunked.Load() && r.Method == http.MethodGet && r.Header.Get("Range") == "" && b.tag == "" {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(b.data)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b.data))
}

// hold answers a GET of a whole gated blob, with a pause; other requests wait for the gate, and true says that they are still
// to be answered.
func (o *origin) hold(w http.ResponseWriter, r *http.Request, b *blob) bool {
	whole := r.Method == http.MethodGet && r.Header.Get("Range") == ""
	if whole {
		w.Header().Set("Content-Length", fmt.Sprint(len(b.data)))
		_, _ = w.Write(b.data[:b.gateAt])
		_ = http.NewResponseController(w).Flush()
	}
	select {
	case <-b.gate:
	case <-r.Context().Done():
		return false
	}
	if whole {
		_, _ = w.Write(b.data[b.gateAt:])
	}
	return !whole
}
