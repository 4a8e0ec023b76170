package admin

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHostAllowed(t *testing.T) {
	t.Parallel()
	g := gate{hosts: []string{"cistern.lab", "cistern"}}
	for host, want := range map[string]bool{
		"": true, "localhost": true, "LOCALHOST:5001": true, "localhost.": true, "127.0.0.1": true, "10.0.0.9:5001": true,
		"[::1]:5001": true, "[::1]": true, "::1": true, "cistern.lab:5001": true, "Cistern": true,
		"evil.example": false, "evil.example:5001": false, "localhost.evil.example": false, "127.0.0.1.nip.io": false,
		"cistern.lab.evil": false, "[fe80::1%25evil.example]": false, "fe80::1%evil.example": false, "2130706433": false, "0x7f.1": false, " ": false, "a:b:c": false,
	} {
		if got := g.hostAllowed(host); got != want {
			t.Errorf("hostAllowed(%q) = %v", host, got)
		}
	}
}

func TestWhoMayAsk(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	local := gate{local: true}
	closed := gate{}
	guarded := gate{tokenFile: token}
	for _, tc := range []struct {
		name         string
		gate         gate
		method, path string
		auth         string
		want         int // 0: may go on
	}{
		{"local needs nothing", local, "POST", "/api/v1/rm", "", 0},
		{"metrics are open", closed, "GET", "/metrics", "", 0},
		{"health is open", closed, "HEAD", "/healthz", "", 0},
		{"readiness is open", guarded, "GET", "/readyz", "", 0},
		{"open paths for reading only", guarded, "POST", "/metrics", "", 401},
		{"nothing else without a token file", closed, "GET", "/api/v1/status", "Bearer s3cret", 403},
		{"profiles too", closed, "GET", "/debug/pprof/", "", 403},
		{"no token sent", guarded, "GET", "/api/v1/status", "", 401},
		{"wrong token", guarded, "GET", "/api/v1/status", "Bearer s3cre", 401},
		{"wrong scheme", guarded, "GET", "/api/v1/status", "Basic s3cret", 401},
		{"right token", guarded, "POST", "/api/v1/rm", "Bearer s3cret", 0},
		{"token file gone", gate{tokenFile: token + "x"}, "GET", "/api/v1/status", "Bearer ", 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(tc.method, "http://127.0.0.1"+tc.path, nil)
			if tc.auth != "" {
				r.Header.Set("Authorization", tc.auth)
			}
			got := 0
			if no := tc.gate.check(r); no != nil {
				got = no.status
			}
			if got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestContainerNamesMayScrape(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		host, path string
		refused    bool
	}{
		{"cistern:5001", "/metrics", false},
		{"cistern", "/readyz", false},
		{"cistern:5001", "/api/v1/status", true},
		{"cistern:5001", "/debug/pprof/", true},
		{"evil.example:5001", "/metrics", true},
		{"x@y", "/metrics", true},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://localhost"+tc.path, nil)
		r.Host = tc.host
		if got := (gate{local: true}).check(r); (got != nil) != tc.refused {
			t.Errorf("%s at %s: %v", tc.path, tc.host, got)
		}
	}
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	g := gate{tokenFile: path}
	ask := func(token string) int {
		r := httptest.NewRequest(http.MethodGet, "http://localhost/api/v1/status", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		if no := g.check(r); no != nil {
			return no.status
		}
		return 0
	}
	for _, tc := range []struct {
		file, token string
		want        int
	}{
		{"one\n", "one", 0},
		{"two\n", "one", 401}, // rotated
		{"two", "two", 0},
		{"", "", 403},
		{" \n", "", 403},
		{"a b", "a b", 403},
	} {
		if err := os.WriteFile(path, []byte(tc.file), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := ask(tc.token); got != tc.want {
			t.Errorf("file %q, token %q: %d, want %d", tc.file, tc.token, got, tc.want)
		}
	}
}

func TestIsLocal(t *testing.T) {
	t.Parallel()
	for want, addrs := range map[bool][]net.Addr{
		true:  {&net.UnixAddr{Name: "/x"}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}, &net.TCPAddr{IP: net.IPv6loopback}},
		false: {&net.TCPAddr{IP: net.IPv4zero}, &net.TCPAddr{IP: net.IPv6unspecified}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, nil},
	} {
		for _, a := range addrs {
			if got := isLocal(a); got != want {
				t.Errorf("isLocal(%v) = %v", a, got)
			}
		}
	}
}

func FuzzHostAllowed(f *testing.F) {
	for _, s := range []string{"localhost", "[::1]:1", "evil.example:80", "a:b", "[[", "127.0.0.1%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		allowed := (gate{}).hostAllowed(host)
		// Nothing that a name server would be asked for.
		bare := strings.ReplaceAll(strings.ToLower(host), "localhost", "")
		if allowed && strings.Trim(bare, "0123456789abcdef:.[]") != "" && !strings.HasPrefix(bare, ":") {
			t.Errorf("%q is allowed", host)
		}
	})
}
