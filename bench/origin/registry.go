package origin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cistern/bench/shape"
)

// request is a parsed path; kind is the label of counters and faults.
type request struct{ kind, name, ref string }

// parse reads the paths of the registry and of the CDN. The registry's own
// parser is not used on purpose: an upstream that shared it would share its mistakes.
func parse(path string) request {
	switch {
	case path == "/v2/" || path == "/v2":
		return request{kind: "ping"}
	case path == "/token":
		return request{kind: "token"}
	case strings.HasPrefix(path, "/cdn/"):
		name, ref, _ := cutLast(strings.TrimPrefix(path, "/cdn/"), "/")
		return request{kind: "blob", name: name, ref: ref}
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return request{kind: "other"}
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return request{kind: "tags", name: name}
	}
	head, ref, _ := cutLast(rest, "/")
	name, kind, ok := cutLast(head, "/")
	if ok {
		switch kind {
		case "manifests", "blobs":
			return request{kind: strings.TrimSuffix(kind, "s"), name: name, ref: ref}
		case "referrers":
			return request{kind: kind, name: name, ref: ref}
		}
	}
	return request{kind: "other"}
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

func (s *Server) serveRegistry(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	req := parse(r.URL.Path)
	if req.kind == "token" && s.auth != nil {
		s.auth.serve(w, r)
		return
	}
	if s.auth != nil && !s.auth.allows(r, req.name) {
		s.auth.challenge(w, r, req.name)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "read only")
		return
	}
	s.dispatch(w, r, req)
}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, req request) {
	switch req.kind {
	case "ping":
		w.Header().Set("Content-Type", "application/json")
		// A client that is gone needs no error.
		_, _ = io.WriteString(w, "{}")
	case "manifest":
		s.serveManifest(w, r, req)
	case "blob":
		if s.opts.Redirect {
			s.redirect(w, r, req)
			return
		}
		s.serveBlob(w, r, req)
	case "tags":
		s.serveTags(w, r, req)
	case "referrers":
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		_, _ = io.WriteString(w, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	default:
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	}
}

func (s *Server) serveManifest(w http.ResponseWriter, r *http.Request, req request) {
	var b *Blob
	if strings.Contains(req.ref, ":") {
		b = s.lib.manifestByDigest(req.name, req.ref)
	} else {
		var err error
		if b, err = s.lib.manifest(req.name, req.ref); err != nil {
			fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
			return
		}
	}
	if b == nil {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	if s.opts.RateLimit > 0 {
		// The control address is not on the link, and its GETs are no pulls.
		if _, far := r.Context().Value(connKey{}).(*shape.Conn); far && r.Method == http.MethodGet {
			s.pulls.Add(1)
		}
		used := int(s.pulls.Load())
		w.Header().Set("Ratelimit-Limit", strconv.Itoa(s.opts.RateLimit)+";w=21600")
		w.Header().Set("Ratelimit-Remaining", strconv.Itoa(max(s.opts.RateLimit-used, 0))+";w=21600")
	}
	s.content(w, r, b, b.MediaType)
}

func (s *Server) serveBlob(w http.ResponseWriter, r *http.Request, req request) {
	b := s.lib.blob(req.name, req.ref)
	if b == nil {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	if r.Method == http.MethodGet {
		s.count.bodies.Add(1)
	}
	s.content(w, r, b, "application/octet-stream")
}

func (s *Server) content(w http.ResponseWriter, r *http.Request, b *Blob, mediaType string) {
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Docker-Content-Digest", b.Digest)
	h.Set("Etag", `"`+b.Digest+`"`)
	reader := b.Open()
	if b.MediaType == "" {
		reader = &counted{ReadSeeker: reader, count: s.count}
	}
	wrapped := body(r.Context(), reader)
	http.ServeContent(w, r, "", time.Time{}, wrapped)
	if f, ok := wrapped.(*faulty); ok && f.fault.Action != FaultWrong {
		// ServeContent returns quietly when a body breaks off.
		panic(http.ErrAbortHandler)
	}
}

// counted adds what is read to the blob bytes.
type counted struct {
	io.ReadSeeker
	count *counting
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadSeeker.Read(p)
	c.count.blobBytes.Add(int64(n))
	return n, err
}

// redirect sends the client to the CDN with a URL that is signed for show: its
// query is what must be passed on, and neither logged nor kept.
func (s *Server) redirect(w http.ResponseWriter, r *http.Request, req request) {
	if s.lib.blob(req.name, req.ref) == nil {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	q := url.Values{"X-Expires": {strconv.FormatInt(time.Now().Add(tokenLife).Unix(), 10)}, "X-Signature": {"bench"}}
	http.Redirect(w, r, s.cdn+"/cdn/"+req.name+"/"+req.ref+"?"+q.Encode(), http.StatusTemporaryRedirect)
}

// serveCDN answers as object stores do: no registry headers to rely on, no
// credentials of somebody else, and only with a signature.
func (s *Server) serveCDN(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		s.count.foreign.Add(1)
		http.Error(w, "Only one auth mechanism allowed", http.StatusBadRequest)
		return
	}
	at, err := strconv.ParseInt(r.URL.Query().Get("X-Expires"), 10, 64)
	if err != nil || time.Now().Unix() > at || r.URL.Query().Get("X-Signature") != "bench" {
		http.Error(w, "Request has expired", http.StatusForbidden)
		return
	}
	s.serveBlob(w, r, parse(r.URL.Path))
}

func (s *Server) serveTags(w http.ResponseWriter, r *http.Request, req request) {
	tags := s.lib.list(req.name)
	if _, ok := LayerSizes(req.name); !ok {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		for len(tags) > 0 && tags[0] <= last {
			tags = tags[1:]
		}
	}
	if n, err := strconv.Atoi(q.Get("n")); err == nil && n >= 0 && n < len(tags) {
		tags = tags[:n]
		if n > 0 {
			next := url.Values{"n": {q.Get("n")}, "last": {tags[n-1]}}
			w.Header().Set("Link", "</v2/"+req.name+"/tags/list?"+next.Encode()+`>; rel="next"`)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": req.name, "tags": tags})
}

// fail writes an error in the registry's form.
func fail(w http.ResponseWriter, status int, code, message string) {
	data := fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	// A client that is gone needs no error.
	_, _ = io.WriteString(w, data)
}
