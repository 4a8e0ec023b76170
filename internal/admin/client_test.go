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

func TestNothingListens(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	for _, address := range []string{address, "unix:" + filepath.Join(t.TempDir(), "none")} {
		c, err := NewClient(address, "")
		if err != nil {
			t.Fatal(err)
		}
		err = c.Healthy(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), "is cistern running? nothing listens at "+address) {
			t.Errorf("error %v", err)
		}
	}
}

func TestClientAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"": "http://127.0.0.1:5001", ":6000": "http://127.0.0.1:6000", "0.0.0.0:1": "http://127.0.0.1:1", "[::]:1": "http://127.0.0.1:1",
		"cistern.lab:5001": "http://cistern.lab:5001", "[::1]:5001": "http://[::1]:5001", "https://c.lab/": "https://c.lab",
		"unix:/run/c.sock": "http://localhost",
	} {
		c, err := NewClient(address, "")
		if err != nil || c.base != want {
			t.Errorf("%q: %q, %v; want %q", address, c.base, err, want)
		}
	}
	for _, address := range []string{"5001", "host", "ftp://x"} {
		if _, err := NewClient(address, ""); err == nil {
			t.Errorf("%q: no error", address)
		}
	}
}

func TestStrangersAnswer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"html": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "not cistern's admin listener"},
		"404":  {http.NotFound, "404 Not Found"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, "302 Found"},
		"refusal": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(401)
			_, _ = w.Write([]byte(`{"error": "send the token"}`))
		}, "send the token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(tc.answer)
			defer srv.Close()
			c, err := NewClient(srv.URL, "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func TestClientSendsItsToken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	if _, err := NewClient("", path); err == nil {
		t.Error("no error for a missing token file")
	}
	if err := os.WriteFile(path, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := admin(t, func(o *Options) { o.Address, o.TokenFile = &net.TCPAddr{IP: net.IPv4zero}, path })
	srv := httptest.NewServer(h)
	defer srv.Close()
	with, err := NewClient(srv.URL, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := with.Status(t.Context()); err != nil {
		t.Error(err)
	}
	without, err := NewClient(srv.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := without.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "admin.token_file") {
		t.Errorf("without a token: %v", err)
	}
	if err := without.Healthy(t.Context()); err != nil {
		t.Error(err)
	}
}
