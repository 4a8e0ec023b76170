package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"cistern/internal/oci"
)

const (
	canaryUser     = "canary-user"
	canaryPassword = "canary-password-9f2c"
)

func canary() Credentials { return Credentials{Username: canaryUser, Password: canaryPassword} }

// TestForeignRealms: a registry names 30 places to ask for a token. Whoever
// answers there never sees an Authorization, and the error names what to set.
func TestForeignRealms(t *testing.T) {
	t.Parallel()
	const own = "https://registry.example.com"
	for _, realm := range []string{
		"https://evil.example/token",
		"https://example.com/token",
		"https://auth.registry.example.com/token",
		"https://registry.example.com.evil.example/token",
		"https://registry.example.com.:443/token",
		"https://registry.example.com:8443/token",
		"https://registry.example.com:80/token",
		"https://registry.example.com@evil.example/token",
		"https://registry.example.com:x@evil.example/token",
		"https://evil.example#@registry.example.com/token",
		"https://evil.example?@registry.example.com/token",
		"https://evil.example/@registry.example.com/token",
		`https://evil.example\@registry.example.com/token`,
		"https://10.0.0.1/token",
		"https://[::1]/token",
		"https://127.0.0.1/token",
		"https://203.0.113.7/token",
		"http://registry.example.com/token",
		"http://registry.example.com:443/token",
		"http://evil.example/token",
		"//evil.example/token",
		"/token",
		"token",
		"https://",
		"https:///token",
		"https:evil.example/token",
		"https://xn--registry-example-8y7e.com/token",
		"https://regıstry.example.com/token",
		"https://auth.docker.io.evil.example/token",
		"https://auth.docker.io/token",
		"ftp://registry.example.com/token",
		"javascript:alert(1)",
		"https://evil.example%00.registry.example.com/token",
		" https://evil.example/token",
	} {
		t.Run(strings.ReplaceAll(realm, "/", "_"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, map[string]http.Handler{own: challenging(fmt.Sprintf(`Bearer realm="%s",service="s"`, realm))})
			o := w.options(own)
			o.Credentials = static(canary())
			u := open(t, o)
			_, err := u.Manifest(t.Context(), "a/b", "latest", "")
			if !errors.Is(err, oci.ErrDenied) {
				t.Errorf("got %v", err)
			}
			for _, h := range w.hits("") {
				if h.authorization != "" {
					t.Errorf("%s saw %q", h.origin, h.authorization)
				}
			}
			if strings.HasPrefix(realm, "https://evil.example/") {
				contains(t, err, "token_hosts", `"evil.example"`)
			}
		})
	}
}

// TestTwoChallenges: of two the first Bearer is taken, and a Basic challenge
// beside a foreign Bearer does not get the password by the side door either.
func TestTwoChallenges(t *testing.T) {
	t.Parallel()
	const own = "https://registry.example.com"
	w := newWorld(t, map[string]http.Handler{own: challenging(`Bearer realm="https://evil.example/token",service="s", Bearer realm="https://registry.example.com/token"`)})
	o := w.options(own)
	o.Credentials = static(canary())
	_, err := open(t, o).Manifest(t.Context(), "a/b", "latest", "")
	contains(t, err, "token_hosts")
	if hits := w.hits("https://evil.example"); len(hits) != 0 {
		t.Errorf("asked %v", hits)
	}
}

// TestForeignRealmAnonymous: without credentials a token may come from
// anywhere, by https.
func TestForeignRealmAnonymous(t *testing.T) {
	t.Parallel()
	const own = "https://registry.example.com"
	for realm, want := range map[string]int{"https://tokens.example/t?a=b": 1, "http://tokens.example/t": 0} {
		w := newWorld(t, map[string]http.Handler{own: challenging(fmt.Sprintf(`Bearer realm="%s",service="s"`, realm))})
		_, err := open(t, w.options(own)).Tags(t.Context(), "a/b", -1, "")
		if want == 0 {
			contains(t, err, "plain http")
		}
		hits := append(w.hits("https://tokens.example"), w.hits("http://tokens.example")...)
		if len(hits) != want {
			t.Fatalf("%s: asked %v (%v)", realm, hits, err)
		}
		if want == 1 && hits[0].uri != "/t?a=b&scope=repository%3Aa%2Fb%3Apull&service=s" {
			t.Errorf("asked for %s", hits[0].uri)
		}
	}
}

// TestTrustedRealms: where credentials do go.
func TestTrustedRealms(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		endpoint, realm string
		declared        []string
		trusted         bool
	}{
		{"https://registry-1.docker.io", "https://auth.docker.io/token", nil, true},
		{"https://registry-1.docker.io", "https://auth.docker.io:8443/token", nil, false},
		{"https://mirror.example", "https://auth.docker.io/token", nil, false},
		{"https://registry.gitlab.com", "https://gitlab.com/jwt/auth", nil, true},
		{"https://ghcr.io", "https://ghcr.io/token", nil, true},
		{"https://GHCR.io", "https://ghcr.IO:443/token", nil, true},
		{"https://quay.io", "https://quay.io/v2/auth", nil, true},
		{"https://europe-docker.pkg.dev", "https://europe-docker.pkg.dev/v2/token", nil, true},
		{"https://x.azurecr.io", "https://x.azurecr.io/oauth2/token", nil, true},
		{"https://x.azurecr.io", "https://y.azurecr.io/oauth2/token", nil, false},
		{"https://nvcr.io", "https://nvcr.io/proxy_auth", nil, true},
		{"https://public.ecr.aws", "https://public.ecr.aws/token/", nil, true},
		{"https://r.example", "https://auth.example/t", []string{"auth.example"}, true},
		{"https://r.example", "https://auth.example:8443/t", []string{"auth.example"}, false},
		{"https://r.example", "https://auth.example:8443/t", []string{"auth.example:8443"}, true},
		{"http://10.0.0.5:5000", "http://10.0.0.5:5000/t", nil, true},
		{"http://10.0.0.5:5000", "http://10.0.0.5:5001/t", nil, false},
		{"http://10.0.0.5:5000", "http://10.0.0.5:5001/t", []string{"10.0.0.5:5001"}, true},
		{"http://10.0.0.5:5000", "http://10.0.0.6:5001/t", []string{"10.0.0.6:5001"}, false},
		{"http://10.0.0.5:5000", "https://auth.example/t", []string{"auth.example"}, true},
		{"http://10.0.0.5:5000", "https://10.0.0.5:5000/t", nil, false},
	} {
		base := parseURL(t, tc.endpoint)
		r, err := newRealms([]*url.URL{base}, tc.declared)
		if err != nil {
			t.Fatal(err)
		}
		if _, trusted, err := r.check(tc.realm, base); err != nil || trusted != tc.trusted {
			t.Errorf("%s for %s %v: trusted %v (%v)", tc.realm, tc.endpoint, tc.declared, trusted, err)
		}
	}
	for _, bad := range []string{"https://auth.example", "auth.example/path", "u@auth.example", "", "a b"} {
		if _, err := newRealms(nil, []string{bad}); err == nil {
			t.Errorf("token_hosts %q is accepted", bad)
		}
	}
}

// challenging answers everything but a token with 401 and a challenge.
func challenging(challenge string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
	})
}
