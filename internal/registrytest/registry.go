// Package registrytest is a small registry in the test's own process: a real
// HTTP server on loopback that holds what a test puts into it, counts what is
// asked of it, and misbehaves on request. It imitates what real registries do
// where clients of them stumble (PROTOCOL section 4); it is no registry to push
// to, and for tests only. Real registries are in the test module.
package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cistern/internal/oci"
)

// Registry is a running registry. Its fields may be set before the first
// request; its methods are safe for concurrent use.
type Registry struct {
	*httptest.Server
	// Before, if set, sees each request first; true means that it answered.
	Before func(w http.ResponseWriter, r *http.Request) bool
	// Password, if set, asks for Bearer tokens, given out for user "user".
	Password string

	mu        sync.Mutex // guards all below
	blobs     map[oci.Digest][]byte
	manifests map[oci.Digest]oci.Descriptor
	tags      map[string]oci.Digest // name:tag
	repos     map[string]map[oci.Digest]bool
	asked     []Asked
}

// Asked is a request that was received.
type Asked struct {
	Method, Path, Query, Range string
	Kind                       oci.Kind
	Authorization              string
}

// New starts a registry, which ends with the test.
func New(t testing.TB) *Registry {
	t.Helper()
	g := &Registry{
		blobs: map[oci.Digest][]byte{}, manifests: map[oci.Digest]oci.Descriptor{},
		tags: map[string]oci.Digest{}, repos: map[string]map[oci.Digest]bool{},
	}
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Server.Close)
	return g
}

// Put adds a blob to a repository.
func (g *Registry) Put(repo string, data []byte) oci.Digest {
	d := oci.FromBytes(data)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.blobs[d] = data
	g.hold(repo, d)
	return d
}

func (g *Registry) hold(repo string, d oci.Digest) {
	if g.repos[repo] == nil {
		g.repos[repo] = map[oci.Digest]bool{}
	}
	g.repos[repo][d] = true
}

// PutManifest adds a manifest and, unless tag is empty, points the tag at it.
func (g *Registry) PutManifest(repo, tag, mediaType string, data []byte) oci.Digest {
	d := g.Put(repo, data)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.manifests[d] = oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	if tag != "" {
		g.tags[repo+":"+tag] = d
	}
	return d
}

// PutImage adds an image of a config and the layers, and gives its manifest's
// digest.
func (g *Registry) PutImage(repo, tag string, layers ...[]byte) oci.Digest {
	type desc struct {
		MediaType string     `json:"mediaType"`
		Digest    oci.Digest `json:"digest"`
		Size      int        `json:"size"`
	}
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"},"created_by":%q}`, repo+tag)
	m := map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeOCIManifest,
		"config": desc{"application/vnd.oci.image.config.v1+json", g.Put(repo, config), len(config)},
	}
	ds := []desc{}
	for _, l := range layers {
		ds = append(ds, desc{"application/vnd.oci.image.layer.v1.tar+gzip", g.Put(repo, l), len(l)})
	}
	m["layers"] = ds
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return g.PutManifest(repo, tag, oci.MediaTypeOCIManifest, data)
}

// Asked lists the requests for a kind since the start or the last Reset, token
// and ping requests under oci.KindOther and oci.KindPing.
func (g *Registry) Asked(kind oci.Kind) []Asked {
	g.mu.Lock()
	defer g.mu.Unlock()
	var as []Asked
	for _, a := range g.asked {
		if a.Kind == kind {
			as = append(as, a)
		}
	}
	return as
}

// Count counts the requests of a method for a kind.
func (g *Registry) Count(method string, kind oci.Kind) (n int) {
	for _, a := range g.Asked(kind) {
		if a.Method == method {
			n++
		}
	}
	return n
}

// Reset forgets what was asked.
func (g *Registry) Reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = nil
}

// ServeHTTP implements http.Handler.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req, err := oci.ParseRequest(r.URL)
	g.mu.Lock()
	g.asked = append(g.asked, Asked{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Range"), req.Kind, r.Header.Get("Authorization")})
	g.mu.Unlock()
	if g.Before != nil && g.Before(w, r) {
		return
	}
	if r.URL.Path == "/token" {
		g.token(w, r)
		return
	}
	if g.Password != "" && r.Header.Get("Authorization") != "Bearer good" {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:wrong:pull"`, g.URL))
		refuse(w, http.StatusUnauthorized, oci.CodeUnauthorized)
		return
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, oci.CodeNameInvalid)
		return
	}
	switch req.Kind {
	case oci.KindPing:
		fmt.Fprint(w, "{}")
	case oci.KindManifest:
		g.manifest(w, r, req)
	case oci.KindBlob:
		g.blob(w, r, req)
	case oci.KindTags:
		g.list(w, req)
	default:
		refuse(w, http.StatusNotFound, oci.CodeUnsupported)
	}
}

func (g *Registry) token(w http.ResponseWriter, r *http.Request) {
	user, password, ok := r.BasicAuth()
	if !ok || user != "user" || password != g.Password {
		refuse(w, http.StatusUnauthorized, oci.CodeUnauthorized)
		return
	}
	fmt.Fprint(w, `{"token":"good","expires_in":300}`)
}

func (g *Registry) manifest(w http.ResponseWriter, r *http.Request, req oci.Request) {
	g.mu.Lock()
	d := req.Digest
	if d.IsZero() {
		d = g.tags[req.Name+":"+req.Tag]
	}
	m, ok := g.manifests[d]
	data, held := g.blobs[d], g.repos[req.Name][d]
	g.mu.Unlock()
	// Registries built on distribution want an OCI type listed by name (P 3.11).
	listed := !strings.HasPrefix(m.MediaType, "application/vnd.oci") || strings.Contains(strings.Join(r.Header["Accept"], ","), m.MediaType)
	if !ok || !held || !listed {
		refuse(w, http.StatusNotFound, oci.CodeManifestUnknown)
		return
	}
	h := w.Header()
	h.Set("Content-Type", m.MediaType)
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", fmt.Sprint(len(data)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(data)
	}
}

func (g *Registry) blob(w http.ResponseWriter, r *http.Request, req oci.Request) {
	g.mu.Lock()
	data, held := g.blobs[req.Digest], g.repos[req.Name][req.Digest]
	g.mu.Unlock()
	if !held {
		refuse(w, http.StatusNotFound, oci.CodeBlobUnknown)
		return
	}
	w.Header().Set("Content-Type", oci.MediaTypeOctetStream)
	w.Header().Set("Docker-Content-Digest", req.Digest.String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (g *Registry) list(w http.ResponseWriter, req oci.Request) {
	g.mu.Lock()
	var tags []string
	for t := range g.tags {
		if name, tag, _ := strings.Cut(t, ":"); name == req.Name && tag > req.Last {
			tags = append(tags, tag)
		}
	}
	g.mu.Unlock()
	slices.Sort(tags)
	if req.N >= 0 && len(tags) > req.N {
		tags = tags[:req.N]
		q := url.Values{"n": {fmt.Sprint(req.N)}, "last": {tags[len(tags)-1]}}
		w.Header().Set("Link", fmt.Sprintf(`<%s/v2/%s/tags/list?%s>; rel="next"`, g.URL, req.Name, q.Encode()))
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": req.Name, "tags": tags})
}

func refuse(w http.ResponseWriter, status int, code oci.Code) {
	w.Header().Set("Content-Type", oci.MediaTypeJSON)
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"refused"}]}`, code)
}
