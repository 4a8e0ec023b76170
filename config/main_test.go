package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cistern/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// environ is an environment for Sources.
func environ(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// flags are set flags, written as on a command line: name, value, name, value.
func flags(pairs ...string) map[string][]string {
	m := map[string][]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = append(m[pairs[i]], pairs[i+1])
	}
	return m
}

// bare are the sources of a machine with nothing configured.
func bare() Sources {
	return Sources{WorkDir: "/work", UserCacheDir: "/home/u/.cache"}
}

// written are bare sources with a configuration file of this text.
func written(t testing.TB, yaml string) Sources {
	t.Helper()
	s := bare()
	s.DefaultFile = filepath.Join(t.TempDir(), "cistern.yaml")
	if err := os.WriteFile(s.DefaultFile, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// mustLoad loads what has no problems.
func mustLoad(t testing.TB, s Sources) *Config {
	t.Helper()
	c, err := Load(s)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return c
}

// problems loads what has some, and gives them one a line with the file's folder cut off.
func problems(t testing.TB, s Sources) []string {
	t.Helper()
	c, err := Load(s)
	var ps Problems
	if !errors.As(err, &ps) || len(ps) == 0 {
		t.Fatalf("Load gave %v, %v; want Problems", c, err)
	}
	if c != nil {
		t.Error("a configuration beside problems")
	}
	text := strings.ReplaceAll(ps.Error(), filepath.Dir(s.DefaultFile)+"/", "")
	return strings.Split(text, "\n")
}

// find gives the upstream of that name.
func find(t testing.TB, c *Config, name string) Upstream {
	t.Helper()
	for _, u := range c.Upstreams {
		if u.Name == name {
			return u
		}
	}
	t.Fatalf("no upstream %s in %v", name, names(c))
	return Upstream{}
}

func names(c *Config) []string {
	out := make([]string, len(c.Upstreams))
	for i, u := range c.Upstreams {
		out[i] = u.Name
	}
	return out
}
