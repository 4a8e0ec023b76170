package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is the file of the documentation.
func sample(t *testing.T) *Config {
	t.Helper()
	s := bare()
	s.DefaultFile = "testdata/sample.yaml"
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	s.WorkDir = wd
	return mustLoad(t, s)
}

func TestSampleSections(t *testing.T) {
	t.Parallel()
	c := sample(t)
	if c.Listen != ":5000" || c.DefaultUpstream != "docker.io" || !filepath.IsAbs(c.File) {
		t.Errorf("listen %q, default %q, file %q", c.Listen, c.DefaultUpstream, c.File)
	}
	if want := (TLS{Cert: "/etc/cistern/tls.crt", Key: "/etc/cistern/tls.key"}); c.TLS != want || !c.TLS.Enabled() {
		t.Errorf("tls %+v", c.TLS)
	}
	if want := (Log{Level: "info", Format: "json"}); c.Log != want {
		t.Errorf("log %+v", c.Log)
	}
	if want := (Cache{Dir: "/var/cache/cistern", MaxSize: 100 << 30, MinFree: MinFree{Bytes: 5 << 30}, FillsKept: DefaultFillsKept, ScrubRate: DefaultScrubRate}); c.Cache != want {
		t.Errorf("cache %+v", c.Cache)
	}
	if c.Admin.Listen != "127.0.0.1:5001" || c.Admin.TokenFile != "" || c.Admin.Hosts != nil {
		t.Errorf("admin %+v", c.Admin)
	}
}

func TestSampleUpstreams(t *testing.T) {
	t.Parallel()
	c := sample(t)
	if got := names(c); !slices.Equal(got, []string{"docker.io", "10.0.0.5:5000"}) {
		t.Fatalf("upstreams %v", got)
	}
	hub := c.Upstreams[0]
	if want := (Credentials{Username: "ci-bot", PasswordFile: "/run/secrets/hub"}); hub.Credentials != want {
		t.Errorf("credentials %+v", hub.Credentials)
	}
	if hub.StaleIfError != 7*24*time.Hour || hub.MaxStreams != 4 || hub.MaxConnections != 32 || hub.Rate != 20_000_000 || c.Rate != 50_000_000 || hub.Network != NetworkAuto {
		t.Errorf("docker.io %+v", hub)
	}
	if len(hub.Tags) != 2 || hub.Tags[0].Fresh != 24*time.Hour || hub.Tags[1].Fresh != time.Minute {
		t.Fatalf("tags %+v", hub.Tags)
	}
	if m := hub.Tags[0].Match; !m.MatchString("v1.2.30") || m.MatchString("1.2.3-alpine") {
		t.Errorf("match %v", m)
	}
	if u := c.Upstreams[1]; !slices.Equal(u.Endpoints, []string{"http://10.0.0.5:5000"}) || !u.Credentials.IsZero() {
		t.Errorf("10.0.0.5:5000 %+v", u)
	}
}

func TestFurtherKeys(t *testing.T) {
	t.Parallel()
	s := written(t, `
admin: { listen: "unix:run/admin.sock", token_file: token, hosts: [Cistern.Example.com, "10.1.2.3:5001"] }
cache: { min_free: 2.5%, abandoned_fills: stop, fills_kept: 1d12h, scrub_rate: 0, dir: data }
upstreams:
  Registry.Example.com:
    credentials: docker
    network: private
    token_hosts: [auth.example.com, "auth.example.com:8443", auth.example.com]
    ca_file: ca.pem
    max_connections: 2
    stale_if_error: 0
  lab: { endpoints: ["http://lab:5000/hub/", "HTTPS://Lab2"] }
`)
	c, dir := mustLoad(t, s), filepath.Dir(s.DefaultFile)
	if c.Admin.Listen != "unix:"+dir+"/run/admin.sock" || c.Admin.TokenFile != dir+"/token" || !slices.Equal(c.Admin.Hosts, []string{"cistern.example.com", "10.1.2.3:5001"}) {
		t.Errorf("admin %+v", c.Admin)
	}
	if c.Cache.Dir != dir+"/data" || !c.Cache.StopAbandoned || c.Cache.FillsKept != 36*time.Hour || c.Cache.ScrubRate != 0 || c.Cache.MinFree.Of(1000) != 25 {
		t.Errorf("cache %+v", c.Cache)
	}
	u := find(t, c, "registry.example.com")
	if !slices.Equal(u.Endpoints, []string{"https://registry.example.com"}) || !u.Credentials.Docker || u.Network != NetworkPrivate || u.CAFile != dir+"/ca.pem" {
		t.Errorf("upstream %+v", u)
	}
	if !slices.Equal(u.TokenHosts, []string{"auth.example.com", "auth.example.com:8443"}) || u.MaxStreams != 2 || u.MaxConnections != 2 || u.StaleIfError != 0 {
		t.Errorf("upstream %+v", u)
	}
	if lab := find(t, c, "lab"); !slices.Equal(lab.Endpoints, []string{"http://lab:5000/hub", "https://lab2"}) {
		t.Errorf("endpoints %v", lab.Endpoints)
	}
	if c.DefaultUpstream != "" {
		t.Errorf("default %q of two, neither docker.io", c.DefaultUpstream)
	}
}

func TestNothingConfigured(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, bare())
	if c.File != "" || c.Listen != ":5000" || c.Admin.Listen != "127.0.0.1:5001" || c.Log != (Log{Level: "info"}) || c.TLS.Enabled() {
		t.Errorf("%+v", c)
	}
	want := Cache{Dir: "/home/u/.cache/cistern", DirDefaulted: true, MaxSize: 50 << 30, SizeDefaulted: true, MinFree: MinFree{Bytes: 1 << 30}, FillsKept: 72 * time.Hour, ScrubRate: 10 << 20}
	if c.Cache != want {
		t.Errorf("cache %+v", c.Cache)
	}
	if c.DefaultUpstream != "docker.io" || len(c.Upstreams) < 10 {
		t.Errorf("default %q of %v", c.DefaultUpstream, names(c))
	}
	for _, u := range c.Upstreams {
		if len(u.Endpoints) != 1 || !strings.HasPrefix(u.Endpoints[0], "https://") || !u.Credentials.IsZero() {
			t.Errorf("%+v", u)
		}
	}
	if hub := find(t, c, "docker.io"); hub.Endpoints[0] != "https://registry-1.docker.io" {
		t.Errorf("docker.io at %v", hub.Endpoints)
	}
}

func TestEmptyFile(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "# nothing\n", "---\n", "upstreams:\ntls:\n#  cert: x\nlog: {}\n", "\ufefflisten: ':5000'\n"} {
		c := mustLoad(t, written(t, text))
		if len(c.Upstreams) != len(wellKnown()) || c.Listen != ":5000" {
			t.Errorf("%q: %+v", text, c)
		}
	}
}

func TestCacheDefaults(t *testing.T) {
	t.Parallel()
	available := func(n int64, err error) func(string) (int64, error) {
		return func(string) (int64, error) { return n, err }
	}
	cases := []struct {
		name string
		give Sources
		dir  string
		size int64
	}{
		{"systemd", Sources{Getenv: environ(map[string]string{"CACHE_DIRECTORY": "/var/cache/private/cistern:/b"}), Root: true}, "/var/cache/private/cistern", 50 << 30},
		{"root", Sources{Root: true, UserCacheDir: "/root/.cache"}, RootCacheDir, 50 << 30},
		{"little space", Sources{Root: true, Available: available(10<<30, nil)}, RootCacheDir, 5 << 30},
		{"much space", Sources{Root: true, Available: available(1<<40, nil)}, RootCacheDir, 50 << 30},
		{"no space", Sources{Root: true, Available: available(0, nil)}, RootCacheDir, 1 << 20},
		{"unknown space", Sources{Root: true, Available: available(0, errors.ErrUnsupported)}, RootCacheDir, 50 << 30},
		{"chosen", Sources{Root: true, Available: available(10<<30, nil), Flags: flags("cache-size", "1TB", "cache-dir", "c"), WorkDir: "/w"}, "/w/c", 1e12},
	}
	for _, c := range cases {
		got := mustLoad(t, c.give).Cache
		if got.Dir != c.dir || got.MaxSize != c.size {
			t.Errorf("%s: %s, %d; want %s, %d", c.name, got.Dir, got.MaxSize, c.dir, c.size)
		}
	}
	if got := problems(t, Sources{}); !strings.Contains(got[0], "set cache.dir or --cache-dir") {
		t.Errorf("no home: %q", got)
	}
}

func TestAvailableIsAskedOnlyIfNeeded(t *testing.T) {
	t.Parallel()
	s := bare()
	s.Available = func(string) (int64, error) { t.Error("asked"); return 0, nil }
	s.Flags = flags("cache-size", "0B")
	if c := mustLoad(t, s); c.Cache.MaxSize != 0 || c.Cache.SizeDefaulted {
		t.Errorf("%+v", c.Cache)
	}
}

func TestAnchors(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, written(t, `
upstreams:
  docker.io: { tags: &std [ { match: x, fresh: 1h } ] }
  ghcr.io: { tags: *std }
`))
	if got := find(t, c, "ghcr.io").Tags; len(got) != 1 || got[0].Fresh != time.Hour {
		t.Errorf("tags through an alias: %+v", got)
	}
}

func TestPipe(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("listen: ':7000'\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s := bare()
	s.Flags = flags("config", fdPath(r))
	if c := mustLoad(t, s); c.Listen != ":7000" {
		t.Errorf("listen %q", c.Listen)
	}
}
