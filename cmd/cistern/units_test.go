package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cistern/cache"
	"cistern/cache/index"
	"cistern/config"
	"cistern/internal/oci"
)

func TestAge(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	for want, t0 := range map[string]time.Time{
		"never": {}, "0s": now.Add(time.Hour), "119s": now.Add(-119 * time.Second), "2m": now.Add(-2 * time.Minute),
		"119m": now.Add(-119 * time.Minute), "2h": now.Add(-2 * time.Hour), "47h": now.Add(-47 * time.Hour), "2d": now.Add(-48 * time.Hour),
	} {
		if got := age(t0, now); got != want {
			t.Errorf("age = %s, want %s", got, want)
		}
	}
}

func TestTablesHoldNoControlCharacters(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	table(&b, []string{"AGENT", "X"}, [][]string{{"evil\x1b[2J\n\t\u202e", ""}})
	if want := "AGENT         X\nevil?[2J???   -\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestFillRows(t *testing.T) {
	t.Parallel()
	d := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	got := fillRows([]cache.FillInfo{
		{Digest: d, Upstream: "docker.io", Repository: "library/app", Size: 4 << 20, OnDisk: 1 << 20, Streams: 2, Readers: 3, Rate: 2048, Age: 130, Origin: "cdn.test", Whole: true},
		{Digest: d, Upstream: "lab", Repository: "x", Size: -1, OnDisk: 512, Age: 0.4},
		{Digest: d, Upstream: "lab", Repository: "x"},
	})
	for i, want := range []string{
		"sha256:0123456789ab… docker.io/library/app 4.0 MiB 1.0 MiB (25 %) 2 3 2.0 KiB/s 2m cdn.test all",
		"sha256:0123456789ab… lab/x ? 512 B 0 0 0 B/s 0s  parts",
		"sha256:0123456789ab… lab/x 0 B 0 B 0 0 0 B/s 0s  parts",
	} {
		if row := strings.Join(got[i], " "); row != want {
			t.Errorf("%q, want %q", row, want)
		}
	}
}

func TestBytesText(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0B", 1: "1B", 1024: "1KiB", 50 << 30: "50GiB", 1 << 40: "1TiB", 1_000_000_000: "1000000000B"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestMirrorURL(t *testing.T) {
	t.Parallel()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for listen, want := range map[string]string{
		":5000": "http://" + name + ":5000", "0.0.0.0:5000": "http://" + name + ":5000", "[::]:5000": "http://" + name + ":5000",
		"cache.lab:5000": "http://cache.lab:5000", "10.0.0.1:0": "http://10.0.0.1:5000", "[::1]:5000": "http://[::1]:5000",
	} {
		if got := mirrorURL(&config.Config{Listen: listen}, &net.TCPAddr{Port: 5000}); got != want {
			t.Errorf("mirrorURL(%s) = %s, want %s", listen, got, want)
		}
	}
	withTLS := &config.Config{Listen: "c.lab:5000", TLS: config.TLS{Cert: "c", Key: "k"}}
	if got := pageAddress(withTLS, &net.TCPAddr{Port: 5000}); got != "https://c.lab:5000" {
		t.Errorf("pageAddress = %s", got)
	}
}

func TestAvailable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	free, err := freeAt(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Others write to the same disk while the test runs.
	got, err := available(filepath.Join(dir, "not", "there", "yet"))
	if err != nil || got < free/2 || got > free*2 {
		t.Errorf("available = %d, %v; free are %d", got, err, free)
	}
}

func TestAvailableCountsWhatTheCacheHolds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	x, err := index.Open(filepath.Join(dir, "index.db"), index.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rec := index.Record{Digest: oci.FromBytes([]byte("x")), Size: 1, Allocated: 5 << 30, Class: index.ClassLarge, FirstSeen: time.Now(), LastUsed: time.Now()}
	if err := x.Apply(index.Batch{Put: []index.Record{rec}}); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if held, err := heldBy(dir); err != nil || held != 5<<30 {
		t.Errorf("heldBy = %d, %v", held, err)
	}
	writeFile(t, filepath.Join(dir, "index.db"), strings.Repeat("broken", 10_000), 0o600)
	if held, err := heldBy(dir); err != nil || held != 0 {
		t.Errorf("heldBy with a broken index = %d, %v", held, err)
	}
}

func TestChanged(t *testing.T) {
	t.Parallel()
	load := func(flags map[string][]string) *config.Config {
		c, err := config.Load(config.Sources{Flags: flags, WorkDir: "/w", UserCacheDir: "/c"})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a := load(nil)
	for want, flags := range map[string]map[string][]string{
		"":                {"log-level": {"debug"}},
		"listen":          {"listen": {":6000"}},
		"cache,upstreams": {"cache-size": {"1GiB"}, "upstream": {"a.test=https://a.test"}},
	} {
		if got := strings.Join(changed(a, load(flags)), ","); got != want {
			t.Errorf("changed = %s, want %s", got, want)
		}
	}
}
