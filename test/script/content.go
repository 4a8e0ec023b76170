package script

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

// Content is what the honest side of every origin of a script serves: blobs by name, manifests by digest and by tag.
// It grows while the script runs.
type Content struct {
	mu        sync.Mutex // guards what follows; the byte slices are never changed
	blobs     map[string][]byte
	byDigest  map[string][]byte
	manifests map[string]doc // by "repository@digest" and "repository:tag"
	tags      map[string][]string
}

type doc struct {
	media string
	raw   []byte
}

// NewContent is empty content.
func NewContent() *Content {
	return &Content{blobs: map[string][]byte{}, byDigest: map[string][]byte{}, manifests: map[string]doc{}, tags: map[string][]string{}}
}

// Random adds a blob of random bytes that seed and name determine, and returns its digest.
func (c *Content) Random(name, seed string, size int) string {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed + " " + name))).Read(b)
	return c.Add(name, b)
}

// Add adds a blob under a name and returns its digest.
func (c *Content) Add(name string, b []byte) string {
	d := digest(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blobs[name], c.byDigest[d] = b, b
	return d
}

// name gives bytes a name without serving them as a blob.
func (c *Content) name(name string, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blobs[name] = b
}

// Blob is the bytes of a named blob.
func (c *Content) Blob(name string) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.blobs[name]
	return b, ok
}

// Image adds an OCI image of the named blobs under "repository:tag" and returns its digest.
func (c *Content) Image(ref string, layers []string) (string, error) {
	config := map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Labels": map[string]string{"ref": ref}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{}},
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	c.Add("config of "+ref, raw)
	describe := func(name, media string) (map[string]any, error) {
		b, ok := c.Blob(name)
		if !ok {
			return nil, fmt.Errorf("no blob %q", name)
		}
		return map[string]any{"mediaType": media, "digest": digest(b), "size": len(b)}, nil
	}
	m := map[string]any{"schemaVersion": 2, "mediaType": mediaImage}
	if m["config"], err = describe("config of "+ref, "application/vnd.oci.image.config.v1+json"); err != nil {
		return "", err
	}
	list := []any{}
	for _, name := range layers {
		d, err := describe(name, "application/vnd.oci.image.layer.v1.tar")
		if err != nil {
			return "", err
		}
		list = append(list, d)
	}
	m["layers"] = list
	if raw, err = json.Marshal(m); err != nil {
		return "", err
	}
	return digest(raw), c.manifest(ref, doc{media: mediaImage, raw: raw})
}

const mediaImage = "application/vnd.oci.image.manifest.v1+json"

func (c *Content) manifest(ref string, d doc) error {
	repo, tag, ok := strings.Cut(ref, ":")
	if !ok {
		return fmt.Errorf("%q is not repository:tag", ref)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blobs[ref] = d.raw
	c.manifests[repo+"@"+digest(d.raw)], c.manifests[ref] = d, d
	c.tags[repo] = append(c.tags[repo], tag)
	return nil
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// ServeHTTP answers as an honest registry: ping, manifests, blobs with ranges, tags, and the JSON errors of the rest.
func (c *Content) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.TrimSuffix(r.URL.Path, "/") == "/v2" {
		_, _ = io.WriteString(w, "{}")
		return
	}
	dir, last := path.Split(strings.TrimPrefix(r.URL.Path, "/v2/"))
	repo, kind := path.Split(strings.TrimSuffix(dir, "/"))
	repo = strings.TrimSuffix(repo, "/")
	c.mu.Lock()
	defer c.mu.Unlock()
	switch kind {
	case "blobs":
		if b, ok := c.byDigest[last]; ok {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Docker-Content-Digest", last)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
			return
		}
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN")
	case "manifests":
		d, ok := c.manifests[repo+":"+last]
		if strings.Contains(last, ":") {
			d, ok = c.manifests[repo+"@"+last]
		}
		if ok {
			w.Header().Set("Content-Type", d.media)
			w.Header().Set("Docker-Content-Digest", digest(d.raw))
			w.Header().Set("Content-Length", fmt.Sprint(len(d.raw)))
			_, _ = w.Write(d.raw)
			return
		}
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
	case "tags":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"name": repo, "tags": c.tags[repo]})
	default:
		refuse(w, http.StatusNotFound, "UNSUPPORTED")
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"scripted"}]}`, code)
}
