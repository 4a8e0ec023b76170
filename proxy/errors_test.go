package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"cistern/internal/oci"
	"cistern/internal/registrytest"
	"cistern/upstream"
)

// TestExplain is P 7.1: what a client is told, by class of failure, kind of
// content and whether the client has another source.
func TestExplain(t *testing.T) {
	t.Parallel()
	const (
		manifest, blob, tags, referrers = oci.KindManifest, oci.KindBlob, oci.KindTags, oci.KindReferrers
	)
	type answers map[oci.Kind]string
	all := func(s string) answers { return answers{manifest: s, blob: s, tags: s, referrers: s} }
	unknown := answers{manifest: "404 MANIFEST_UNKNOWN", blob: "404 BLOB_UNKNOWN", tags: "404 NAME_UNKNOWN", referrers: "404 MANIFEST_UNKNOWN"}
	mirror := answers{manifest: "503 UNAVAILABLE", blob: "404 BLOB_UNKNOWN", tags: "503 UNAVAILABLE", referrers: "503 UNAVAILABLE"}
	for _, c := range []struct {
		err            error
		mirror, direct answers
	}{
		{oci.ErrNotFound, unknown, unknown},
		{oci.ErrDenied, unknown, all("403 DENIED")},
		{oci.ErrLimited, mirror, all("429 TOOMANYREQUESTS")},
		{oci.ErrUnavailable, mirror, all("503 UNAVAILABLE")},
		{oci.ErrCorrupt, mirror, all("502 UNAVAILABLE")},
		{context.DeadlineExceeded, mirror, all("504 UNAVAILABLE")},
		{errors.New("surprise"), answers{manifest: "500 UNKNOWN", blob: "404 BLOB_UNKNOWN", tags: "500 UNKNOWN", referrers: "500 UNKNOWN"}, all("500 UNKNOWN")},
		{&oci.Error{Code: oci.CodeDigestInvalid}, all("400 DIGEST_INVALID"), all("400 DIGEST_INVALID")},
	} {
		for direct, want := range map[bool]answers{false: c.mirror, true: c.direct} {
			for kind, w := range want {
				e := explain(kind, direct, "docker.io/x", fmt.Errorf("operation: %w", c.err))
				if got := fmt.Sprint(e.Status(), " ", e.Code); got != w {
					t.Errorf("%v, %v, direct %v: %s, want %s", c.err, kind, direct, got, w)
				}
				s := e.Status()
				if !direct && (s == 401 || s == 403 || s == 429) {
					t.Errorf("%v, %v: %d in mirror mode", c.err, kind, s)
				}
				if again := s == 429 || s >= 500; again != (e.RetryAfter > 0) {
					t.Errorf("%v, %v, direct %v: status %d, Retry-After %v", c.err, kind, direct, s, e.RetryAfter)
				}
				if strings.Contains(e.Message, "operation") || strings.Contains(e.Message, "surprise") {
					t.Errorf("the private cause is in the public message %q", e.Message)
				}
			}
		}
	}
}

func TestExplainRetryAfter(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("x: %w", &upstream.Error{Op: "manifest x", Host: "h", Status: 429, Class: oci.ErrLimited, RetryAfter: 90 * time.Second})
	e := explain(oci.KindManifest, true, "x", err)
	if e.RetryAfter != 90*time.Second || e.Detail == nil {
		t.Errorf("%v, %v", e.RetryAfter, e.Detail)
	}
}

// TestErrorBodies: whatever goes wrong, the body is the registry's JSON, and a
// HEAD has the same header and none.
func TestErrorBodies(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	g.Before = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "limited") {
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(429)
			return true
		}
		return false
	}
	well := registrytest.New(t)
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": well, "ghcr.io": g}})
	d := oci.FromBytes([]byte("x")).String()
	for path, want := range map[string]string{
		"/v2/a/none/manifests/x":               "404 MANIFEST_UNKNOWN",
		"/v2/a/none/manifests/" + d:            "404 MANIFEST_UNKNOWN",
		"/v2/a/none/blobs/" + d:                "404 BLOB_UNKNOWN",
		"/v2/a/none/blobs/sha256:zz":           "400 DIGEST_INVALID",
		"/v2/a/none/blobs/md5:" + d[7:39]:      "400 DIGEST_INVALID",
		"/v2/a/NONE/manifests/x":               "400 NAME_INVALID",
		"/v2/a/../b/manifests/x":               "400 NAME_INVALID",
		"/v2/a%2fb/c/manifests/x":              "400 NAME_INVALID",
		"/v2/a/b/manifests/.x":                 "400 MANIFEST_INVALID",
		"/v2/a/b/tags/list?n=-1":               "400 PAGINATION_NUMBER_INVALID",
		"/v2/a/limited/manifests/x?ns=ghcr.io": "503 UNAVAILABLE",
		"/v2/ghcr.io/a/limited/manifests/x":    "429 TOOMANYREQUESTS",
		"/v2/quay.io/a/b/manifests/x":          "404 NAME_UNKNOWN",
		"/v2/a/b/manifests/x?ns=quay.io":       "404 NAME_UNKNOWN",
		"/v2/_catalog":                         "404 UNSUPPORTED",
		"/v2/a/b/blobs/uploads/":               "404 UNSUPPORTED",
		"/favicon.ico":                         "404 UNSUPPORTED",
		"/v2/a/b/referrers/" + d + "?x=%zz":    "400 NAME_INVALID",
	} {
		a, head := r.get(path), r.do("HEAD", path)
		var body struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(a.body, &body); err != nil || len(body.Errors) != 1 || body.Errors[0].Message == "" {
			t.Errorf("%s: %v, %q", path, err, a.body)
			continue
		}
		if got := fmt.Sprint(a.status, " ", body.Errors[0].Code); got != want {
			t.Errorf("%s: %s, want %s (%s)", path, got, want, body.Errors[0].Message)
		}
		if a.header.Get("Content-Type") != "application/json" || a.header.Get("Www-Authenticate") != "" {
			t.Errorf("%s: %v", path, a.header)
		}
		if head.status != a.status || len(head.body) != 0 || head.header.Get("Content-Type") != "application/json" {
			t.Errorf("HEAD %s: %d, %d bytes, %v", path, head.status, len(head.body), head.header)
		}
		if (a.status == 429 || a.status >= 500) != (a.header.Get("Retry-After") != "") {
			t.Errorf("%s: %d with Retry-After %q", path, a.status, a.header.Get("Retry-After"))
		}
	}
}
