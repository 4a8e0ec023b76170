package peer_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cistern/bench/peer"
)

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr}).Get(url)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, string(data)
}

// The floor is a yardstick for one fetch: it must do that itself.
func TestFloorFetchesOnce(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		asked.Add(1)
		if strings.HasSuffix(r.URL.Path, "/missing") {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "content of "+r.URL.Path)
	}))
	defer up.Close()
	s := httptest.NewServer(peer.FloorHandler(t.TempDir(), up.URL+"/"))
	defer s.Close()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if status, data := fetch(t, s.URL+"/v2/a/blobs/x"); status != 200 || data != "content of /v2/a/blobs/x" {
				t.Errorf("%d %q", status, data)
			}
		})
	}
	wg.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("asked upstream %d times", n)
	}
	if status, _ := fetch(t, s.URL+"/v2/a/blobs/missing"); status != 502 {
		t.Errorf("missing: %d", status)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sha256:x"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(peer.FilesHandler(dir))
	defer s.Close()
	if status, data := fetch(t, s.URL+"/sha256:x"); status != 200 || data != "data" {
		t.Errorf("%d %q", status, data)
	}
}

func TestFleetOfNothing(t *testing.T) {
	t.Parallel()
	f, err := peer.NewFleet(peer.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{peer.Direct: true, peer.Floor: true, peer.FileServer: true, peer.Cistern: false, peer.CisternLog: false, peer.NginxCache: false, peer.NginxFiles: false} {
		if f.Has(name) != want {
			t.Errorf("Has(%s) = %v", name, !want)
		}
	}
	if _, err := f.Start(t.Context(), "squid", &peer.Origin{}); err == nil {
		t.Error("started a peer that there is not")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
