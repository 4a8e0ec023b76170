package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"cistern/internal/oci"
)

const reg = "https://registry.example.com"

// basicRegistry wants the canary by Basic and then hands over to next.
func basicRegistry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); p != canaryPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// chains are ways that a registry may lead us; allowed are the origins that may
// see the credentials.
func chains() map[string]struct {
	hops    map[string]string // origin -> Location
	allowed []string
} {
	type m = map[string]string
	type row = struct {
		hops    map[string]string
		allowed []string
	}
	return map[string]row{
		"other host":           {m{reg: "https://cdn.example/x"}, nil},
		"subdomain":            {m{reg: "https://cdn.registry.example.com/x"}, nil},
		"parent domain":        {m{reg: "https://example.com/x"}, nil},
		"other port":           {m{reg: reg + ":8443/x"}, nil},
		"default port":         {m{reg: reg + ":443/final"}, []string{reg + ":443"}},
		"relative":             {m{reg: "/final"}, nil},
		"relative path":        {m{reg: "final"}, nil},
		"protocol relative":    {m{reg: "//cdn.example/x"}, nil},
		"a b b":                {m{reg: "https://b.example/1", "https://b.example": "https://b.example/final"}, nil},
		"a b a":                {m{reg: "https://b.example/1", "https://b.example": reg + "/final"}, nil},
		"a b c":                {m{reg: "https://b.example/1", "https://b.example": "https://c.example/x"}, nil},
		"user in the location": {m{reg: "https://u:p@cdn.example/x"}, nil},
		"http":                 {m{reg: "http://registry.example.com/x"}, nil},
		"http elsewhere":       {m{reg: "http://cdn.example/x"}, nil},
	}
}

func TestRedirectMatrix(t *testing.T) {
	t.Parallel()
	for name, c := range chains() {
		for _, kind := range []string{"blob", "manifest", "head", "tags", "referrers", "blobinfo"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				hosts := map[string]http.Handler{}
				for origin, location := range c.hops {
					h := hop(location)
					if origin == reg {
						h = basicRegistry(h)
					}
					hosts[origin] = h
				}
				w := newWorld(t, hosts)
				o := w.options(reg)
				o.Credentials = static(canary())
				err := ask(t, open(t, o), kind)
				if strings.HasPrefix(name, "http") {
					contains(t, err, "https to plain http")
				}
				checkChain(t, w, name, c.allowed, kind)
			})
		}
	}
}

// hop redirects what is not at its end yet.
func hop(location string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/final") {
			_, _ = io.WriteString(w, "{}")
			return
		}
		w.Header().Set("Set-Cookie", "session=1")
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
}

func ask(t *testing.T, u *Upstream, kind string) error {
	t.Helper()
	d := oci.FromBytes([]byte("x"))
	var err error
	switch kind {
	case "blob":
		var b *Body
		if b, err = u.Blob(t.Context(), "a/b", d, 3, 7); err == nil {
			err = b.Close()
		}
	case "manifest":
		_, err = u.Manifest(t.Context(), "a/b", "latest", "")
	case "head":
		_, err = u.Resolve(t.Context(), "a/b", "latest")
	case "tags":
		_, err = u.Tags(t.Context(), "a/b", -1, "")
	case "referrers":
		_, err = u.Referrers(t.Context(), "a/b", d, nil)
	case "blobinfo":
		_, err = u.BlobInfo(t.Context(), "a/b", d)
	}
	return err
}

func checkChain(t *testing.T, w *world, name string, allowed []string, kind string) {
	t.Helper()
	away := false
	for _, h := range w.hits("") {
		first := strings.HasPrefix(h.uri, "/v2/") && h.origin == reg && !strings.HasSuffix(h.uri, "/final")
		away = away || h.origin != reg
		legit := first || len(allowed) > 0 && h.origin == allowed[0] || strings.HasPrefix(name, "relative") && h.origin == reg
		if h.authorization != "" && !legit {
			t.Errorf("%s %s saw an Authorization", h.origin, h.uri)
		}
		if h.cookie != "" {
			t.Errorf("%s saw a cookie", h.origin)
		}
		if kind == "blob" && h.rng != "bytes=3-6" {
			t.Errorf("%s %s was asked with Range %q", h.origin, h.uri, h.rng)
		}
		if h.origin == "http://cdn.example" || h.origin == "http://registry.example.com" {
			t.Errorf("%s was asked at all", h.origin)
		}
	}
	if !away && !strings.HasPrefix(name, "relative") && !strings.HasPrefix(name, "http") {
		t.Error("the redirect was not followed")
	}
}

func TestTokenRedirects(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		location string
		kept     bool
	}{
		"other host": {"https://tokens.example/t", false},
		"subdomain":  {"https://t.registry.example.com/t", false},
		"other port": {reg + ":8443/t", false},
		"http":       {"http://registry.example.com/t", false},
		"own":        {"/final", true},
	} {
		w := newWorld(t, map[string]http.Handler{reg: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/token":
				http.Redirect(w, r, tc.location, http.StatusTemporaryRedirect)
			case "/final":
				_, _ = io.WriteString(w, `{"token":"t"}`)
			default:
				challenging(`Bearer realm="`+reg+`/token"`).ServeHTTP(w, r)
			}
		})})
		o := w.options(reg)
		o.Credentials = static(canary())
		_, err := open(t, o).Tags(t.Context(), "a/b", -1, "")
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		for _, h := range w.hits("") {
			if h.origin != reg && h.authorization != "" {
				t.Errorf("%s: %s saw an Authorization", name, h.origin)
			}
			if h.uri == "/final" && (h.authorization != "") != tc.kept {
				t.Errorf("%s: on the own origin: %q", name, h.authorization)
			}
		}
	}
}

func TestRedirectsThatAreRefused(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	for location, want := range map[string]string{
		"/v2/loop?sig=SECRET":            "more than 5 times",
		"":                               "without a Location",
		"ftp://cdn.example/x?sig=SECRET": "not an http(s) URL",
		"http://%zz/?sig=SECRET":         "not a URL",
		"https:///x?sig=SECRET":          "not an http(s) URL",
		"data:application/json,%7B%7D?sig=SECRET": "not an http(s) URL",
	} {
		asked.Store(0)
		u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header()["Location"] = []string{location}
			w.WriteHeader(http.StatusFound)
		})}})
		_, err := u.Blob(t.Context(), "a/b", oci.FromBytes(nil), 0, -1)
		contains(t, err, want)
		if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the error holds the query: %v", err)
		}
		if n := asked.Load(); n > maxHops+1 {
			t.Errorf("%q: %d requests", location, n)
		}
		if !u.Healthy() {
			t.Errorf("%q: the breaker opened", location)
		}
	}
}

// TestExpiredURL: a signed URL that is refused is renewed at the registry once.
func TestExpiredURL(t *testing.T) {
	t.Parallel()
	body := "0123456789"
	for _, tc := range []struct {
		name    string
		status  int
		text    string
		refuses int // first answers of the content host
		ok      bool
	}{
		{"403 once", 403, "", 1, true},
		{"401 once", 401, "", 1, true},
		{"400 expired", 400, "<Error><Code>ExpiredToken</Code></Error>", 1, true},
		{"400 denied", 400, "<Error><Code>AccessDenied</Code></Error>", 1, true},
		{"400 other", 400, "<Error><Code>Bad</Code></Error>", 1, false},
		{"403 for ever", 403, "", 99, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var asked, redirected atomic.Int64
			cdn := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if int(asked.Add(1)) <= tc.refuses {
					w.WriteHeader(tc.status)
					_, _ = io.WriteString(w, tc.text)
					return
				}
				http.ServeContent(w, r, "", zeroTime, strings.NewReader(body))
			})
			u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, fmt.Sprintf("%s/x?sig=SECRET%d", cdn, redirected.Add(1)), http.StatusTemporaryRedirect)
			})}})
			b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte(body)), 4, 10)
			if (err == nil) != tc.ok {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				if strings.Contains(err.Error(), "SECRET") || !u.Healthy() || redirected.Load() > 2 {
					t.Errorf("%v, healthy %v, %d redirects", err, u.Healthy(), redirected.Load())
				}
				return
			}
			got, err := io.ReadAll(b)
			if string(got) != body[4:] || err != nil || b.Offset != 4 {
				t.Errorf("got %q at %d, %v", got, b.Offset, err)
			}
		})
	}
}

// TestContentHostDown: the registry answers, so its breaker stays closed.
func TestContentHostDown(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, "http://127.0.0.1:1/x?sig=SECRET", http.StatusTemporaryRedirect)
	})}})
	_, err := u.Blob(t.Context(), "a/b", oci.FromBytes(nil), 0, -1)
	if !errors.Is(err, oci.ErrUnavailable) || !u.Healthy() || asked.Load() < 2 || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("%v, healthy %v, asked %d times", err, u.Healthy(), asked.Load())
	}
	contains(t, err, "127.0.0.1:1")
}
