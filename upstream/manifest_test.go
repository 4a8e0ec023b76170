package upstream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"cistern/internal/oci"
)

// manifestServer answers every request with a type, headers and a body.
func manifestServer(t *testing.T, mediaType, body string, headers ...string) string {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.Header.Values("Accept"), superset(); len(got) != 1 || got[0] != want {
			t.Errorf("Accept %q", got)
		}
		w.Header()["Content-Type"] = nil
		if mediaType != "" {
			w.Header().Set("Content-Type", mediaType)
		}
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		_, _ = io.WriteString(w, body)
	})
}

func TestMediaTypes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ header, body, want string }{
		{oci.MediaTypeOCIIndex, `{"schemaVersion":2,"manifests":[]}`, oci.MediaTypeOCIIndex},
		{oci.MediaTypeOCIManifest + "; charset=utf-8", `{"schemaVersion":2,"config":{},"layers":[]}`, oci.MediaTypeOCIManifest},
		{"Application/VND.docker.distribution.manifest.v2+json", `{"config":{},"layers":[]}`, oci.MediaTypeDockerManifest},
		{"text/plain; charset=utf-8", `{"mediaType":"` + oci.MediaTypeDockerList + `","manifests":[]}`, oci.MediaTypeDockerList},
		{"", `{"mediaType":"` + oci.MediaTypeDockerManifest + `","layers":[]}`, oci.MediaTypeDockerManifest},
		{"application/json", `{"schemaVersion":2,"manifests":[]}`, oci.MediaTypeOCIIndex},
		{"application/octet-stream", `{"schemaVersion":2,"config":{},"layers":[]}`, oci.MediaTypeOCIManifest},
		{"application/json", `{"schemaVersion":1,"fsLayers":[],"signatures":[]}`, oci.MediaTypeDockerSchema1Signed},
		{"application/json", `{"schemaVersion":1,"fsLayers":[]}`, oci.MediaTypeDockerSchema1},
		{"", `{"x":1}`, oci.MediaTypeOctetStream},
		{"application/vnd.oci.artifact.manifest.v1+json", `{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}`, "application/vnd.oci.artifact.manifest.v1+json"},
		{oci.MediaTypeOCIManifest, `{"config":{},"layers":[],"manifests":null}` + "\n", oci.MediaTypeOCIManifest},
	} {
		u := open(t, Options{Endpoints: []string{manifestServer(t, tc.header, tc.body)}})
		m, err := u.Manifest(t.Context(), "a/b", "latest", "")
		if err != nil || m.MediaType != tc.want || string(m.Bytes) != tc.body || m.Digest != oci.FromBytes([]byte(tc.body)) {
			t.Errorf("%s %s: %+v %v", tc.header, tc.body, m, err)
		}
		if m, err := u.Manifest(t.Context(), "a/b", oci.FromBytes([]byte(tc.body)).String(), ""); err != nil || m.MediaType != tc.want {
			t.Errorf("by digest: %v", err)
		}
	}
}

// TestAmbiguous: documents that two readers would read as two things.
func TestAmbiguous(t *testing.T) {
	t.Parallel()
	const index, image = oci.MediaTypeOCIIndex, oci.MediaTypeOCIManifest
	for _, tc := range []struct{ header, body string }{
		{index, `{"manifests":[],"layers":[]}`},
		{index, `{"manifests":[],"config":{}}`},
		{image, `{"manifests":[],"layers":[]}`},
		{image, `{"manifests":[],"config":{},"layers":[]}`},
		{index, `{"layers":[]}`},
		{image, `{"manifests":[]}`},
		{image, `{"fsLayers":[]}`},
		{image, `{"config":{},"layers":[],"fsLayers":[]}`},
		{oci.MediaTypeDockerManifest, `{"manifests":[]}`},
		{oci.MediaTypeDockerList, `{"layers":[]}`},
		{oci.MediaTypeDockerSchema1, `{"layers":[]}`},
		{oci.MediaTypeDockerSchema1Signed, `{"manifests":[]}`},
		{index, `{"mediaType":"` + image + `","manifests":[]}`},
		{image, `{"mediaType":"` + index + `","layers":[]}`},
		{"application/json", `{"mediaType":"` + image + `","manifests":[]}`},
		{"", `{"manifests":[],"layers":[]}`},
		{"application/vnd.other+json", `{"manifests":[],"layers":[]}`},
		{image, `{"layers":[],"Manifests":[]}`},
		{image, `{"layers":[],"layers":[{}]}`},
		{image, `{"mediaType":"` + image + `","mediatype":"` + index + `","layers":[]}`},
		{image, `{"mediaType":"` + image + `","mediaType":"` + index + `","layers":[]}`},
		{"application/" + strings.Repeat("x", 244), `{"layers":[]}`}, // one byte too many
		{image, `{"mediaType":7,"layers":[]}`},
		{image, `{"mediaType":"a\r\nX: y","layers":[]}`},
		{image, `{"layers":[]}{"manifests":[]}`},
		{image, `[{"layers":[]}]`},
		{image, `"layers"`},
		{image, `{"layers":[]`},
		{image, `not json`},
		{image, ` `},
	} {
		_, err := open(t, Options{Endpoints: []string{manifestServer(t, tc.header, tc.body)}}).Manifest(t.Context(), "a/b", "latest", "")
		if !errors.Is(err, oci.ErrCorrupt) {
			t.Errorf("%s %s: %v", tc.header, tc.body, err)
		}
	}
}

func TestManifestRefused(t *testing.T) {
	t.Parallel()
	ok := `{"layers":[]}`
	for name, tc := range map[string]struct {
		url  string
		want string
	}{
		"empty":      {manifestServer(t, oci.MediaTypeOCIManifest, ""), "empty body"},
		"html":       {manifestServer(t, "text/html; charset=utf-8", "<html>"), "web page"},
		"html json":  {manifestServer(t, "text/html", ok), "web page"},
		"html plain": {manifestServer(t, "text/plain", "<html>"), "not a JSON object"},
		"gzip":       {manifestServer(t, oci.MediaTypeOCIManifest, ok, "Content-Encoding", "gzip"), `Content-Encoding "gzip"`},
		"large":      {manifestServer(t, oci.MediaTypeOCIManifest, strings.Repeat(" ", maxManifest+1)), "more than"},
		"announced":  {script(t, []step{expect(nil), send("HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n{")}), "more than"},
		"partial":    {script(t, []step{expect(nil), send(partial("bytes 0-1/2", "2", "{}"))}), "206"},
	} {
		_, err := open(t, Options{Endpoints: []string{tc.url}}).Manifest(t.Context(), "a/b", "latest", "")
		if !errors.Is(err, oci.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		contains(t, err, tc.want, "manifest a/b:latest")
	}
	big := `{"layers":[],"x":"` + strings.Repeat("x", 4<<20) + `"}`
	if m, err := open(t, Options{Endpoints: []string{manifestServer(t, oci.MediaTypeOCIManifest, big)}}).Manifest(t.Context(), "a/b", "latest", ""); err != nil || len(m.Bytes) != len(big) {
		t.Errorf("4 MiB: %v", err)
	}
}

func TestManifestDigests(t *testing.T) {
	t.Parallel()
	body := `{"config":{},"layers":[]}`
	good, other := oci.FromBytes([]byte(body)), oci.FromBytes([]byte("other"))
	const header = "Docker-Content-Digest"
	for name, tc := range map[string]struct {
		ref     string
		headers []string
		ok      bool
	}{
		"tag, no header":            {"latest", nil, true},
		"tag, right header":         {"latest", []string{header, good.String()}, true},
		"tag, wrong header":         {"latest", []string{header, other.String()}, false},
		"tag, nonsense header":      {"latest", []string{header, "sha256:../x"}, true},
		"digest, no header":         {good.String(), nil, true},
		"digest, header lies":       {good.String(), []string{header, other.String()}, true},
		"wrong digest, no header":   {other.String(), nil, false},
		"wrong digest, header lies": {other.String(), []string{header, other.String()}, false},
	} {
		u := open(t, Options{Endpoints: []string{manifestServer(t, oci.MediaTypeOCIManifest, body, tc.headers...)}})
		m, err := u.Manifest(t.Context(), "a/b", tc.ref, "")
		if (err == nil) != tc.ok || err == nil && m.Digest != good || err != nil && !errors.Is(err, oci.ErrCorrupt) {
			t.Errorf("%s: %+v %v", name, m, err)
		}
		if s := u.Stats(); !tc.ok && (s.VerifyFailures != 2 || !s.Endpoints[0].Marked || !s.Up) {
			t.Errorf("%s: %+v", name, s)
		}
	}
	second := manifestServer(t, oci.MediaTypeOCIManifest, body)
	u := open(t, Options{Endpoints: []string{manifestServer(t, oci.MediaTypeOCIManifest, `{"layers":[]}`), second}})
	if m, err := u.Manifest(t.Context(), "a/b", good.String(), ""); err != nil || string(m.Bytes) != body {
		t.Errorf("two endpoints disagree: %v", err)
	}
}

func TestSchema1(t *testing.T) {
	t.Parallel()
	payload := `{"schemaVersion":1,"fsLayers":[]}`
	head := strings.TrimSuffix(payload, "}")
	protected := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"formatLength":%d,"formatTail":"%s"}`, len(head), base64.RawURLEncoding.EncodeToString([]byte("}"))))
	signed := head + `,"signatures":[{"protected":"` + protected + `"}]}`
	d := oci.FromBytes([]byte(payload))
	u := open(t, Options{Endpoints: []string{manifestServer(t, oci.MediaTypeDockerSchema1Signed, signed, "Docker-Content-Digest", d.String())}})
	for _, ref := range []string{"latest", d.String()} {
		m, err := u.Manifest(t.Context(), "a/b", ref, "")
		if err != nil || m.Digest != d || !m.Uncacheable || string(m.Bytes) != signed {
			t.Errorf("%s: %+v %v", ref, m, err)
		}
	}
	if _, err := u.Manifest(t.Context(), "a/b", oci.FromBytes([]byte("other")).String(), ""); !errors.Is(err, oci.ErrCorrupt) {
		t.Errorf("another digest: %v", err)
	}
	// The label alone opens no door.
	for _, body := range []string{`{"fsLayers":[]}`, `{"signatures":[{"protected":"!"}]}`, `{"signatures":[{"protected":"e30"}]}`, strings.Replace(signed, protected, base64.RawURLEncoding.EncodeToString([]byte(`{"formatLength":99999}`)), 1)} {
		u := open(t, Options{Endpoints: []string{manifestServer(t, oci.MediaTypeDockerSchema1Signed, body)}})
		if _, err := u.Manifest(t.Context(), "a/b", d.String(), ""); !errors.Is(err, oci.ErrCorrupt) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	d, other := oci.FromBytes([]byte("m")), oci.FromBytes([]byte("other"))
	for name, tc := range map[string]struct {
		ref    string
		answer http.HandlerFunc
		want   oci.Descriptor
		class  error
	}{
		"full": {"latest", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeOCIIndex+"; x=y")
			w.Header().Set("Docker-Content-Digest", d.String())
			w.Header().Set("Content-Length", "123")
		}, oci.Descriptor{MediaType: oci.MediaTypeOCIIndex, Digest: d, Size: 123}, nil},
		"no digest":    {"latest", code(200), oci.Descriptor{Size: -1}, nil},
		"405":          {"latest", code(405), oci.Descriptor{Size: -1}, nil},
		"501":          {"latest", code(501), oci.Descriptor{Size: -1}, nil},
		"404":          {"latest", code(404), oci.Descriptor{Size: -1}, oci.ErrNotFound},
		"403":          {"latest", code(403), oci.Descriptor{Size: -1}, oci.ErrDenied},
		"503":          {"latest", code(503), oci.Descriptor{Size: -1}, oci.ErrUnavailable},
		"other digest": {d.String(), func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Docker-Content-Digest", other.String()) }, oci.Descriptor{Size: -1}, oci.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodHead {
					t.Errorf("a %s", r.Method)
				}
				tc.answer(w, r)
			})}})
			r, err := u.Resolve(t.Context(), "a/b", tc.ref)
			if r.Descriptor != tc.want || !errors.Is(err, tc.class) || tc.class == nil && err != nil {
				t.Errorf("%+v %v", r, err)
			}
		})
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	var uri atomic.Value
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		uri.Store(r.URL.RequestURI())
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Link", `<https://elsewhere/v2/a/b/tags/list?n=1000&last=z&token=q>; rel="next"`)
		_, _ = io.WriteString(w, `{"name":"a/b","tags":["x"]}`)
	}) + "/prefix/"}})
	for _, tc := range []struct {
		n    int
		last string
		want string
	}{
		{-1, "", "/prefix/v2/a/b/tags/list"},
		{0, "", "/prefix/v2/a/b/tags/list?n=0"},
		{5000, "a&b", "/prefix/v2/a/b/tags/list?last=a%26b&n=1000"},
	} {
		d, err := u.Tags(t.Context(), "a/b", tc.n, tc.last)
		if err != nil || uri.Load() != tc.want || d.MediaType != "application/json" || d.Next.Encode() != "last=z&n=1000&token=q" {
			t.Errorf("asked %s: %+v %v", uri.Load(), d, err)
		}
	}
	for body, want := range map[string]string{"": "empty", "<html>": "not JSON", strings.Repeat(" ", maxList+1): "more than"} {
		_, err := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
		})}}).Tags(t.Context(), "a/b", -1, "")
		contains(t, err, want)
	}
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	d := oci.FromBytes([]byte("m"))
	list := func(mediaType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != "artifactType=a%2Fb&artifactType=c" {
				t.Errorf("query %s", r.URL.RawQuery)
			}
			w.Header().Set("Content-Type", mediaType)
			w.Header().Set("OCI-Filters-Applied", "artifactType")
			_, _ = io.WriteString(w, body)
		}
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		class  error
	}{
		"index":     {list(oci.MediaTypeOCIIndex, `{"manifests":[]}`), nil},
		"json":      {list("application/json", `{"manifests":[]}`), oci.ErrNotFound},
		"html":      {list("text/html", `<html>`), oci.ErrNotFound},
		"web page":  {redirectOnce("/web"), oci.ErrNotFound},
		"404":       {code(404), oci.ErrNotFound},
		"405":       {code(405), oci.ErrNotFound},
		"400":       {code(400), oci.ErrNotFound},
		"501":       {code(501), oci.ErrNotFound},
		"204":       {code(204), oci.ErrNotFound},
		"403":       {code(403), oci.ErrDenied},
		"429":       {code(429), oci.ErrLimited},
		"500":       {code(500), oci.ErrUnavailable},
		"503":       {code(503), oci.ErrUnavailable},
		"broken":    {list(oci.MediaTypeOCIIndex, `{"manif`), oci.ErrCorrupt},
		"refused":   {redirectOnce("ftp://x/"), oci.ErrUnavailable},
		"no answer": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, oci.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc, err := open(t, Options{Endpoints: []string{serve(t, tc.answer)}}).Referrers(t.Context(), "a/b", d, []string{"a/b", "c"})
			if !errors.Is(err, tc.class) || tc.class == nil && (err != nil || doc.FiltersApplied != "artifactType" || doc.Next != nil) {
				t.Errorf("%+v %v", doc, err)
			}
		})
	}
}

func redirectOnce(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/web" {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>")
			return
		}
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusSeeOther)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"mediaType":"`+oci.MediaTypeOCIIndex+`","manifests":[]}`), oci.MediaTypeOCIIndex)
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[],"signatures":[{"protected":"e30"}]}`), "")
	f.Fuzz(func(t *testing.T, b []byte, header string) {
		_, _ = schema1Payload(b)
		d, err := inspect(b, header)
		if err == nil && len(d.mediaType) > maxMediaType {
			t.Fatalf("a type of %d bytes", len(d.mediaType))
		}
		if err == nil && oci.IsIndex(d.mediaType) && (d.has["layers"] || d.has["config"]) {
			t.Fatalf("%s as %s", b, d.mediaType)
		}
	})
}
