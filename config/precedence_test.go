package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func fdPath(f *os.File) string { return fmt.Sprintf("/dev/fd/%d", f.Fd()) }

const layered = `
listen: ":1"
admin: { listen: ":2" }
cache: { dir: /file, max_size: 3GiB }
log: { level: error }
default_upstream: file.example.com
upstreams:
  file.example.com: { username: u, password_env: P }
  both.example.com:
`

func TestPrecedence(t *testing.T) {
	t.Parallel()
	all := map[string]string{
		"listen": ":11", "admin-listen": "off", "cache-dir": "env", "cache-size": "4GiB",
		"upstream": "env.example.com=https://e", "default-upstream": "env.example.com", "log-level": "warn",
	}
	env, flag := map[string]string{}, map[string][]string{}
	for name, text := range all {
		env[envName(name)] = text
		flag[name] = []string{strings.NewReplacer("env", "flag", "off", ":22", ":11", ":21", "4GiB", "5GiB", "warn", "debug").Replace(text)}
	}
	s := written(t, layered)
	want := func(listen, admin, dir string, size int64, def, level string) {
		t.Helper()
		c := mustLoad(t, s)
		got := fmt.Sprint(c.Listen, c.Admin.Listen, c.Cache.Dir, c.Cache.MaxSize>>30, c.DefaultUpstream, c.Log.Level)
		if wanted := fmt.Sprint(listen, admin, dir, size, def, level); got != wanted {
			t.Errorf("got  %s\nwant %s", got, wanted)
		}
	}
	want(":1", ":2", "/file", 3, "file.example.com", "error")
	s.Getenv = environ(env)
	want(":11", "off", "/work/env", 4, "env.example.com", "warn")
	s.Flags = flag
	want(":21", ":22", "/work/flag", 5, "flag.example.com", "debug")
	s.Getenv = nil
	want(":21", ":22", "/work/flag", 5, "flag.example.com", "debug")
}

func TestSettingsAreTheVariables(t *testing.T) {
	t.Parallel()
	var got []string
	for _, s := range Settings() {
		got = append(got, "--"+s.Name, s.Env())
		if s.Usage == "" {
			t.Errorf("%s has no help", s.Name)
		}
	}
	want := []string{
		"--config", "CISTERN_CONFIG", "--listen", "CISTERN_LISTEN", "--admin-listen", "CISTERN_ADMIN_LISTEN",
		"--cache-dir", "CISTERN_CACHE_DIR", "--cache-size", "CISTERN_CACHE_SIZE", "--upstream", "CISTERN_UPSTREAM",
		"--default-upstream", "CISTERN_DEFAULT_UPSTREAM", "--log-level", "CISTERN_LOG_LEVEL",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// Kubernetes sets variables for every service of a namespace, and one may well be called cistern.
func TestOtherVariablesAreIgnored(t *testing.T) {
	t.Parallel()
	s := bare()
	s.Getenv = environ(map[string]string{
		"CISTERN_PORT": "tcp://10.0.0.1:5000", "CISTERN_SERVICE_HOST": "10.0.0.1", "CISTERN_ADMIN": "http://x",
		"CISTERN_CACHE": "nonsense", "CISTERN_LOG_LEVEL": " ", "CISTERN_LISTEN": "",
	})
	if c := mustLoad(t, s); c.Listen != DefaultListen || c.Log.Level != DefaultLogLevel {
		t.Errorf("%+v", c)
	}
}

func TestUpstreamFlag(t *testing.T) {
	t.Parallel()
	s := written(t, layered)
	s.Getenv = environ(map[string]string{"CISTERN_UPSTREAM": "both.example.com=https://env, lab=http://127.0.0.1:1\tindex.docker.io=http://hub"})
	s.Flags = flags("upstream", "file.example.com=http://one", "upstream", "new:5000=http://a", "upstream", "new:5000=http://b", "upstream", "new:5000=http://a", "upstream", "lab=http://flag")
	c := mustLoad(t, s)
	for name, want := range map[string][]string{
		"file.example.com": {"http://one"},           // the flag replaces the endpoints ...
		"both.example.com": {"https://env"},          // as the variable does
		"lab":              {"http://flag"},          // the flag beats the variable
		"new:5000":         {"http://a", "http://b"}, // the same name again adds
		"docker.io":        {"http://hub"},           // by its other name
	} {
		if got := find(t, c, name).Endpoints; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if u := find(t, c, "file.example.com"); u.Credentials.Username != "u" { // ... and nothing else
		t.Errorf("%+v", u)
	}
	if len(c.Upstreams) != 5 {
		t.Errorf("upstreams %v", names(c))
	}
}

func TestUpstreamFlagBesideTheBuiltIn(t *testing.T) {
	t.Parallel()
	s := bare()
	s.Flags = flags("upstream", "docker.io=http://127.0.0.1:5555", "upstream", "lab=http://127.0.0.1:5556")
	c := mustLoad(t, s)
	if len(c.Upstreams) != len(wellKnown())+1 || find(t, c, "docker.io").Endpoints[0] != "http://127.0.0.1:5555" {
		t.Errorf("%+v", c.Upstreams)
	}
}

func TestOnlyUpstreamIsTheDefault(t *testing.T) {
	t.Parallel()
	s := written(t, "upstreams: { }\n")
	s.Flags = flags("upstream", "lab=http://127.0.0.1:5000")
	if c := mustLoad(t, s); c.DefaultUpstream != "lab" {
		t.Errorf("default %q", c.DefaultUpstream)
	}
}

func TestWhichFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i, name := range []string{"default", "env", "flag"} {
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, "listen: ':%d'\n", i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := bare()
	s.WorkDir = dir
	for i, add := range []func(){
		func() { s.DefaultFile = filepath.Join(dir, "default") },
		func() { s.Getenv = environ(map[string]string{"CISTERN_CONFIG": "env"}) },
		func() { s.Flags = flags("config", "flag") },
	} {
		add()
		if c := mustLoad(t, s); c.Listen != fmt.Sprintf(":%d", i) {
			t.Errorf("source %d: listen %s from %s", i, c.Listen, c.File)
		}
	}
	s = bare()
	s.DefaultFile = filepath.Join(dir, "missing")
	mustLoad(t, s)
	for _, s.Flags = range []map[string][]string{flags("config", s.DefaultFile), flags("config", "")} {
		problems(t, s)
	}
}
