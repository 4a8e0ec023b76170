package lab

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Cistern is a running daemon under test.
type Cistern struct {
	*Process
	Addr  string // of the registry listener
	URL   string
	Admin string // base URL of the admin listener
	Cache string // its cache directory

	options CisternOptions
}

// CisternOptions say how a daemon is started. Beside them it gets a free loopback address for its admin listener.
type CisternOptions struct {
	// Config is the text of the configuration file. Empty: Upstreams, with tags fresh for an hour.
	Config string
	// Upstreams are names and base URLs, all that the daemon knows; used where Config is empty.
	Upstreams map[string]string
	// Addr is that of the registry listener; empty: a free one.
	Addr string
	// Cache is the cache directory; empty: a new one that goes away with the test.
	Cache string
	// Args go to the command line after all others.
	Args []string
	// Env is added to the environment, from which every CISTERN_ variable is taken out.
	Env []string
	// Under, if set, is a program with arguments that runs the daemon as its child: strace -o FILE. PID is that program's.
	Under []string
}

// Binary is the daemon under test: CISTERN_BIN, or bin/cistern at the root of the project.
func Binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv("CISTERN_BIN")
	if path == "" {
		path = filepath.Join(Root(t), "bin", "cistern")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no daemon to test (`make build` makes it): %v", err)
	}
	return path
}

// StartCistern starts a daemon and waits until it answers on its registry listener.
func StartCistern(t testing.TB, o CisternOptions) *Cistern {
	t.Helper()
	c := LaunchCistern(t, o)
	Eventually(t, 20*time.Second, c.Process, Answers(c.URL+"/v2/", http.StatusOK))
	return c
}

// LaunchCistern starts a daemon and does not wait: for those that are expected to refuse.
func LaunchCistern(t testing.TB, o CisternOptions) *Cistern {
	t.Helper()
	if o.Cache == "" {
		o.Cache = Dir(t)
	}
	if o.Config == "" {
		o.Config = config(o.Upstreams)
	}
	if o.Addr == "" {
		o.Addr = Addr()
	}
	c := &Cistern{Addr: o.Addr, Cache: o.Cache, options: o}
	c.URL = "http://" + c.Addr
	c.launch(t)
	return c
}

// Restart starts the daemon again after it has ended, on the same addresses and cache directory.
func (c *Cistern) Restart(t testing.TB) {
	t.Helper()
	select {
	case <-c.Exited():
	case <-time.After(20 * time.Second):
		t.Fatal("restart: the daemon still runs")
	}
	c.launch(t)
	Eventually(t, 20*time.Second, c.Process, Answers(c.URL+"/v2/", http.StatusOK))
}

func (c *Cistern) launch(t testing.TB) {
	t.Helper()
	file := filepath.Join(Dir(t), "cistern.yaml")
	Write(t, file, c.options.Config)
	admin := Addr()
	c.Admin = "http://" + admin
	args := append([]string{"serve", "--config", file, "--listen", c.Addr, "--admin-listen", admin,
		"--cache-dir", c.Cache, "--log-level", "debug"}, c.options.Args...)
	args = slices.Concat(c.options.Under, []string{Binary(t)}, args)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "CISTERN_") })
	cmd.Env = append(cmd.Env, c.options.Env...)
	c.Process = Start(t, "cistern", cmd)
}

// config is a configuration with the given upstreams, docker.io the default where it is one of them.
func config(upstreams map[string]string) string {
	text := "cache: { max_size: 20GiB, min_free: 0B }\nupstreams:\n"
	for name, url := range upstreams {
		text += fmt.Sprintf("  %q:\n    endpoints: [%q]\n    tags: [{ match: \".*\", fresh: 1h }]\n", name, url)
	}
	return text
}

// Metric is the sum over all series of the metric whose labels, as printed, match every one of the regular
// expressions; 0 where there is none.
func (c *Cistern) Metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	resp, err := http.Get(c.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for line := range strings.Lines(string(text)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		base, set, _ := strings.Cut(series, "{")
		if !ok || base != name || !matchAll(set, labels) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("metric line %q: %v", line, err)
		}
		sum += v
	}
	return sum
}

func matchAll(s string, patterns []string) bool {
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(s) {
			return false
		}
	}
	return true
}
