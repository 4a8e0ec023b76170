package config

import (
	"errors"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzFile loads arbitrary files. Loading never panics; what it accepts is valid, and each problem names its line.
func FuzzFile(f *testing.F) {
	seed, err := os.ReadFile("testdata/sample.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(seed))
	for _, s := range []string{
		"", "- a", "a: &a [*a]", "log: &a { level: *a }", "? [a]\n: b", "<<: {}", "upstreams: { x: &x { endpoints: [*x] } }",
		"cache: { max_size: 1e9, min_free: 1% }", "!!binary a: b", "listen: !!null x", "\t", "a: |\n\tb", "--- a\n--- b", "%YAML 9", "\x00",
		"upstreams: { docker.io: , Docker.IO: }", "tls: { cert: \"\\0\" }", "a: *b", "upstreams:\n  r: {endpoints: [http://[::1]:5000/x%2fy]}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := newLoader(bare())
		l.cfg.File = "/x/cistern.yaml"
		l.document(origin{source: "cistern.yaml", base: "/x"}, []byte(text))
		l.finish()
		if len(l.problems) == 0 {
			checkConfig(t, &l.cfg)
			return
		}
		for _, p := range l.problems.sorted() {
			line := p.String()
			if p.Line < 1 || p.Line > 1+strings.Count(text, "\n")+strings.Count(text, "\r")+strings.Count(text, "\u0085")+strings.Count(text, "\u2028")+strings.Count(text, "\u2029") {
				t.Errorf("no such line: %s", line)
			}
			if !strings.HasPrefix(line, "cistern.yaml:") || strings.ContainsAny(line, "\n\r") || !utf8.ValidString(line) || p.Wrong == "" {
				t.Errorf("a poor problem: %q", line)
			}
		}
	})
}

// FuzzFlags loads arbitrary values of every flag.
func FuzzFlags(f *testing.F) {
	f.Add(":5000", "off", "/c", "5GiB", "docker.io=http://h", "docker.io", "info")
	f.Add("[::1]:0", "unix:a", "~", "0", "[::1]:5=http://[::1]:5", "[::1]:5", "")
	f.Fuzz(func(t *testing.T, listen, admin, dir, size, upstream, def, level string) {
		s := bare()
		s.Flags = flags("listen", listen, "admin-listen", admin, "cache-dir", dir, "cache-size", size, "upstream", upstream, "default-upstream", def, "log-level", level)
		c, err := Load(s)
		if err == nil {
			checkConfig(t, c)
			return
		}
		var ps Problems
		if !errors.As(err, &ps) {
			t.Fatalf("not Problems: %v", err)
		}
		for _, p := range ps {
			if !strings.HasPrefix(p.Source, "--") || p.Line != 0 || p.Key != "" || strings.ContainsAny(p.String(), "\n\r") {
				t.Errorf("a poor problem: %q", p)
			}
		}
	})
}

// checkConfig holds what Config promises.
func checkConfig(t *testing.T, c *Config) {
	t.Helper()
	if c.Cache.Dir == "" || c.Cache.Dir[0] != '/' || c.Cache.MaxSize < 0 || c.Cache.MinFree.Of(1<<40) < 0 {
		t.Errorf("cache %+v", c.Cache)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		t.Errorf("tls %+v", c.TLS)
	}
	if len(c.Upstreams) == 0 {
		t.Error("no upstream")
	}
	seen := map[string]bool{}
	for _, u := range c.Upstreams {
		if name, err := parseUpstreamName(u.Name); err != nil || name != u.Name || seen[name] {
			t.Errorf("name %q: %v", u.Name, err)
		}
		seen[u.Name] = true
		if len(u.Endpoints) == 0 || u.StaleIfError < 0 || u.MaxStreams < 1 || u.MaxStreams > u.MaxConnections {
			t.Errorf("%+v", u)
		}
		for _, e := range u.Endpoints {
			if again, err := parseEndpoint(e); err != nil || again != e {
				t.Errorf("endpoint %q, again %q: %v", e, again, err)
			}
		}
		for _, r := range u.Tags {
			if r.Match == nil || r.Fresh < 0 {
				t.Errorf("rule %+v", r)
			}
		}
		if k := u.Credentials; !k.Docker && (k.Username == "") != (k.PasswordFile == "" && k.PasswordEnv == "") || k.Docker && k.Username != "" {
			t.Errorf("credentials %+v", k)
		}
	}
	if c.DefaultUpstream != "" && !seen[c.DefaultUpstream] {
		t.Errorf("default %q", c.DefaultUpstream)
	}
}
