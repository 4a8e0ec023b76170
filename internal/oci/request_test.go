package oci

import (
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

const hex64 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseRequest(t *testing.T) {
	t.Parallel()
	d := Digest{"sha256:" + hex64}
	for in, want := range map[string]Request{
		"/v2":                                   {Kind: KindPing},
		"/v2/":                                  {Kind: KindPing},
		"/v2/library/nginx/manifests/latest":    {Kind: KindManifest, Name: "library/nginx", Tag: "latest"},
		"/v2/nginx/manifests/sha256:" + hex64:   {Kind: KindManifest, Name: "nginx", Digest: d},
		"/v2/nginx/manifests/sha256%3A" + hex64: {Kind: KindManifest, Name: "nginx", Digest: d},
		"/v2/nginx/blobs/sha256:" + hex64 + "?ns=docker.io":     {Kind: KindBlob, Name: "nginx", Digest: d, Namespace: "docker.io"},
		"/v2/ghcr.io/org/x/blobs/sha256:" + hex64:               {Kind: KindBlob, Name: "ghcr.io/org/x", Digest: d},
		"/v2/10.0.0.5:5000/x/manifests/v1":                      {Kind: KindManifest, Name: "10.0.0.5:5000/x", Tag: "v1"},
		"/ghcr.io/v2/org/x/manifests/v1":                        {Kind: KindManifest, Prefix: "ghcr.io", Name: "org/x", Tag: "v1"},
		"/hub/v2/":                                              {Kind: KindPing, Prefix: "hub"},
		"/hub/v2":                                               {Kind: KindPing, Prefix: "hub"},
		"/hub/v2/v2/v2/manifests/v2":                            {Kind: KindManifest, Prefix: "hub", Name: "v2/v2", Tag: "v2"},
		"/v2/v2/manifests/v2":                                   {Kind: KindManifest, Name: "v2", Tag: "v2"},
		"/v2/a/blobs/manifests/tags/list":                       {Kind: KindTags, Name: "a/blobs/manifests"},
		"/v2/a/tags/list/manifests/blobs":                       {Kind: KindManifest, Name: "a/tags/list", Tag: "blobs"},
		"/v2/a/referrers/manifests/blobs/sha256:" + hex64:       {Kind: KindBlob, Name: "a/referrers/manifests", Digest: d},
		"/v2/a/tags/list?n=5&last=v1":                           {Kind: KindTags, Name: "a", N: 5, Last: "v1"},
		"/v2/a/tags/list?n=99999999":                            {Kind: KindTags, Name: "a", N: MaxPage},
		"/v2/a/referrers/sha256:" + hex64 + "?artifactType=a/b": {Kind: KindReferrers, Name: "a", Digest: d, ArtifactTypes: []string{"a/b"}},
		"/":                       {},
		"/metrics":                {},
		"/v2/_catalog":            {},
		"/v2//manifests":          {},
		"/v2/a/blobs/uploads/":    {Kind: KindOther},
		"/v2/library/nginx":       {},
		"//v2/library/tags/list":  {},
		"/v2/a/manifests/latest/": {},
	} {
		u, err := url.ParseRequestURI(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseRequest(u)
		if want.Kind == KindOther {
			if got.Kind != KindOther {
				t.Errorf("ParseRequest(%s) = %+v, want KindOther", in, got)
			}
			continue
		}
		if !strings.Contains(in, "n=") || want.Kind != KindTags {
			want.N = -1
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseRequest(%s) = %+v, %v\nwant %+v", in, got, err, want)
		}
	}
}

func TestParseRequestErrors(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 256)
	for in, want := range map[string]Code{
		"/v2/../etc/manifests/latest":                  CodeNameInvalid,
		"/v2/a/%2e%2e/b/manifests/latest":              CodeNameInvalid,
		"/v2/a%2fb/manifests/latest":                   CodeNameInvalid,
		"/v2/a%5cb/manifests/latest":                   CodeNameInvalid,
		"/v2/a%00/manifests/latest":                    CodeNameInvalid,
		"/v2/a%0a/manifests/latest":                    CodeNameInvalid,
		"/v2/a//b/manifests/latest":                    CodeNameInvalid,
		"/v2/Library/nginx/manifests/latest":           CodeNameInvalid,
		"/v2/a___b/manifests/latest":                   CodeNameInvalid,
		"/v2/a..b/manifests/latest":                    CodeNameInvalid,
		"/v2/-a/manifests/latest":                      CodeNameInvalid,
		"/v2/" + long + "/manifests/latest":            CodeNameInvalid,
		"/v2/a/manifests/.latest":                      CodeManifestInvalid,
		"/v2/a/manifests/la%20test":                    CodeManifestInvalid,
		"/v2/a/manifests/" + long:                      CodeManifestInvalid,
		"/v2/a/manifests/sha256:baddigest":             CodeDigestInvalid,
		"/v2/a/blobs/latest":                           CodeDigestInvalid,
		"/v2/a/blobs/md5:" + hex64[:32]:                CodeDigestInvalid,
		"/v2/a/blobs/sha256:" + strings.ToUpper(hex64): CodeDigestInvalid,
		"/v2/a/tags/list?n=-1":                         CodePaginationInvalid,
		"/v2/a/tags/list?n=9223372036854775808":        CodePaginationInvalid,
		"/v2/a/tags/list?n=x":                          CodePaginationInvalid,
		"/v2/a/tags/list?n=%zz":                        CodeNameInvalid,
	} {
		u, err := url.ParseRequestURI(in)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseRequest(u)
		var e *Error
		if !errors.As(err, &e) || e.Code != want {
			t.Errorf("ParseRequest(%s) gives %v, want code %s", in, err, want)
		}
	}
}

// FuzzParseRequest checks what every caller builds upon: what is parsed is
// valid, holds nothing that could become a path, and builds the same again.
func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{"/v2/", "/p/v2/a/b/manifests/v1?ns=x", "/v2/a/blobs/sha256:" + hex64, "/v2/a/tags/list?n=3&last=b",
		"/v2/ghcr.io/a/tags/tags/list", "/v2/a/%2e%2e/manifests/x", "/v2/a/referrers/sha256:" + hex64 + "?artifactType=x&artifactType=y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.ParseRequestURI(s)
		if err != nil {
			return
		}
		r, err := ParseRequest(u)
		if err != nil || r.Kind == KindOther {
			return
		}
		if r.Kind != KindPing {
			if _, name, _ := r.SplitHost(); !ValidName(name) && !ValidName(r.Name) {
				t.Fatalf("%q gives name %q", s, r.Name)
			}
		}
		if p := r.Path(); strings.Contains(p, "..") && !strings.Contains(r.Tag, "..") || strings.Contains(p, "//") || strings.ContainsAny(p, "%\\\x00\n") {
			t.Fatalf("%q gives path %q", s, p)
		}
		again, err := ParseRequest(r.URL())
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("%q: %+v builds %s, which parses as %+v, %v", s, r, r.URL(), again, err)
		}
	})
}

func TestNamesAndTags(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{"a": true, "a/b/c": true, "a.b_c__d-e---f/0": true, "": false, "/a": false, "a/": false, "A": false,
		"a._b": false, "a.": false, "_a": false, "a\n": false, "é": false} {
		if ValidName(s) != want {
			t.Errorf("ValidName(%q) = %v", s, !want)
		}
	}
	for s, want := range map[string]bool{"latest": true, "_x": true, "V1.0-rc_1": true, "": false, ".x": false, "-x": false, "a:b": false, "a b": false} {
		if ValidTag(s) != want {
			t.Errorf("ValidTag(%q) = %v", s, !want)
		}
	}
}

func TestAccepts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lines []string
		want  bool
	}{
		{nil, true},
		{[]string{"*/*"}, true},
		{[]string{"application/*"}, true},
		{[]string{"text/html"}, false},
		{[]string{"text/html, */*;q=0.1"}, true},
		{[]string{MediaTypeOCIIndex + ";q=0"}, false},
		{[]string{MediaTypeDockerManifest, MediaTypeOCIIndex}, true},
		{[]string{MediaTypeDockerManifest + "," + MediaTypeDockerList}, false},
	} {
		if got := Accepts(c.lines, MediaTypeOCIIndex); got != c.want {
			t.Errorf("Accepts(%q) = %v", c.lines, got)
		}
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	d := FromBytes(nil)
	if d.Hex() != hex64 || d.Algorithm() != "sha256" || !d.Verify(nil) || d.Verify([]byte("x")) {
		t.Errorf("FromBytes(nil) = %s", d)
	}
	big, err := ParseDigest("sha512:" + strings.Repeat("0", 128))
	if err != nil || big.Hash().Size() != 64 {
		t.Errorf("sha512: %v, %v", big, err)
	}
	for _, bad := range []string{"", "sha256", "sha256:", "sha256:xyz", "sha384:" + strings.Repeat("0", 96), "sha256+b64:" + hex64, "sha256:../../x"} {
		if d, err := ParseDigest(bad); err == nil {
			t.Errorf("ParseDigest(%q) = %v", bad, d)
		}
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	if got := Quote("a\nb"); got != `"a\nb"` {
		t.Error(got)
	}
	if got := Quote(strings.Repeat("x", 1000)); len(got) > 300 {
		t.Error(len(got))
	}
}
