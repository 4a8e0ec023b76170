package disk_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cistern/test/lab"
)

// A rig is a daemon with its origin and a client.
type rig struct {
	*origin
	t      testing.TB
	daemon *lab.Cistern
	client *http.Client
	dir    string // the cache directory
	cap    int64  // bytes
	down   bool   // the test has ended the daemon
	under  bool   // its parent is a tracer

	checked bool
}

// settings say how a daemon differs from one with a cap of 1 GiB in a folder of its own.
type settings struct {
	dir     string
	cap     int64
	minFree string
	origin  *origin // nil: a new one
	under   []string
}

// start starts a daemon. When the test is over it must live, have nothing open that is not its own, and owe nothing.
func start(t testing.TB, s settings) *rig {
	t.Helper()
	r := prepare(t, s)
	r.daemon = lab.StartCistern(t, r.options(s))
	t.Cleanup(r.check)
	return r
}

func prepare(t testing.TB, s settings) *rig {
	t.Helper()
	if s.origin == nil {
		s.origin = startOrigin(t)
	}
	if s.dir == "" {
		s.dir = lab.Dir(t)
	}
	if s.cap == 0 {
		s.cap = 1 << 30
	}
	r := &rig{origin: s.origin, t: t, client: newClient(), dir: s.dir, cap: s.cap, under: s.under != nil}
	t.Cleanup(r.client.CloseIdleConnections)
	return r
}

func (r *rig) options(s settings) lab.CisternOptions {
	if s.minFree == "" {
		s.minFree = "0B"
	}
	return lab.CisternOptions{Cache: r.dir, Under: s.under, Config: fmt.Sprintf("cache: { max_size: %dB, min_free: %s }\nupstreams:\n  docker.io:\n"+
		"    endpoints: [\"http://%s\"]\n    tags: [{ match: \".*\", fresh: 1h }]\n", r.cap, s.minFree, r.addr)}
}

// ask sends a request; the caller closes the body.
func (r *rig) ask(b *blob) *body { return ask(r.t.Context(), r.client, r.daemon.URL, b) }

// get asks for a blob and reads it to the end, which may take a minute at most.
func (r *rig) get(b *blob) answer {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	body := ask(ctx, r.client, r.daemon.URL, b)
	defer body.close()
	return body.read(-1)
}

// pull is get, and the body must be whole.
func (r *rig) pull(bs ...*blob) (last answer) {
	r.t.Helper()
	for _, b := range bs {
		if last = r.get(b); last.err != nil {
			r.t.Fatalf("pull of %d bytes (%q): %v", len(b.data), last.outcome, last.err)
		}
	}
	return last
}

// hits pulls, and each must come from the cache.
func (r *rig) hits(bs ...*blob) {
	r.t.Helper()
	for _, b := range bs {
		if a := r.pull(b); !a.hit() {
			r.t.Fatalf("%d bytes are %q and not a hit", len(b.data), a.outcome)
		}
	}
}

// misses pulls, and none may come from the cache.
func (r *rig) misses(bs ...*blob) {
	r.t.Helper()
	for _, b := range bs {
		if a := r.pull(b); a.hit() {
			r.t.Fatalf("%d bytes are %q", len(b.data), a.outcome)
		}
	}
}

// keeps pulls until each is a hit: it is kept again.
func (r *rig) keeps(bs ...*blob) {
	r.t.Helper()
	for _, b := range bs {
		lab.Eventually(r.t, 30*time.Second, r.daemon.Process, func() error {
			if a := r.pull(b); !a.hit() {
				return fmt.Errorf("%d bytes are %q", len(b.data), a.outcome)
			}
			return nil
		})
	}
}

// recorded pulls and waits until each lies in its place: then it is on stable storage and has its record.
func (r *rig) recorded(bs ...*blob) {
	r.t.Helper()
	r.pull(bs...)
	for _, b := range bs {
		lab.Eventually(r.t, 20*time.Second, r.daemon.Process, func() error {
			_, err := os.Stat(r.in(b.file("blobs")))
			return err
		})
	}
}

// in is a path in the cache directory.
func (r *rig) in(name string) string { return filepath.Join(r.dir, name) }

// until waits until ok says nil.
func (r *rig) until(ok func() error) {
	r.t.Helper()
	lab.Eventually(r.t, 30*time.Second, r.daemon.Process, ok)
}

// metric waits until a metric is what ok wants.
func (r *rig) metric(name string, ok func(float64) bool) {
	r.t.Helper()
	r.until(func() error {
		if v := r.daemon.Metric(r.t, name); !ok(v) {
			return fmt.Errorf("%s is %v", name, v)
		}
		return nil
	})
}

func equal(n float64) func(float64) bool { return func(v float64) bool { return v == n } }

// says waits for a line of the daemon's output that holds all of the words.
func (r *rig) says(words ...string) {
	r.t.Helper()
	r.until(func() error {
	lines:
		for line := range strings.Lines(strings.ToLower(r.daemon.Output())) {
			for _, w := range words {
				if !strings.Contains(line, strings.ToLower(w)) {
					continue lines
				}
			}
			return nil
		}
		return fmt.Errorf("no line of the log has %q", words)
	})
}

// ready asks whether the daemon is ready; "" if it is, else why not.
func (r *rig) ready() string {
	resp, err := http.Get(r.daemon.Admin + "/readyz")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err.Error()
	case resp.StatusCode == http.StatusOK:
		return ""
	}
	return resp.Status + ": " + string(text)
}

// isReady waits until the daemon is ready; isNot until it says why not, with that word.
func (r *rig) isReady() {
	r.t.Helper()
	r.until(func() error {
		if why := r.ready(); why != "" {
			return errors.New(why)
		}
		return nil
	})
}

func (r *rig) isNot(word string) {
	r.t.Helper()
	r.until(func() error {
		if why := r.ready(); !strings.Contains(strings.ToLower(why), word) {
			return fmt.Errorf("readyz says %q and not %q", why, word)
		}
		return nil
	})
}

// stop ends the daemon in order; restart starts it again.
func (r *rig) stop() {
	r.t.Helper()
	r.daemon.Stop(r.t)
	r.down = true
	if code := r.daemon.ExitCode(); code != 0 {
		r.t.Errorf("exit code %d", code)
	}
}

func (r *rig) restart() {
	r.t.Helper()
	r.daemon.Restart(r.t)
	r.down = false
	r.t.Cleanup(r.check) // before this process is ended
}

// check ends a test: whatever it did, the daemon lives, has nothing open in its directory beyond what it always has, and owes
// nothing.
func (r *rig) check() {
	if r.checked {
		return
	}
	r.checked = true
	for _, bad := range []string{"panic", "goroutine 1 ", "fatal error:"} {
		if strings.Contains(r.daemon.Output(), bad) {
			r.t.Errorf("the daemon's output has %q", bad)
		}
	}
	if r.down {
		return
	}
	select {
	case <-r.daemon.Exited():
		r.t.Errorf("the daemon has ended with exit code %d", r.daemon.ExitCode())
		return
	default:
	}
	for _, name := range []string{"cistern_cache_reserved_bytes", "cistern_flight_readers", "cistern_fills_in_flight", "cistern_evicted_open_bytes"} {
		r.metric(name, equal(0))
	}
	for _, name := range []string{"cistern_cache_bytes", "cistern_cache_blobs"} {
		if v := r.daemon.Metric(r.t, name); v < 0 {
			r.t.Errorf("%s is %v", name, v)
		}
	}
	r.until(r.nothingOpen)
}

// pid is the daemon's process.
func (r *rig) pid() int {
	if !r.under {
		return r.daemon.PID()
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", r.daemon.PID()))
	if err != nil {
		r.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		r.t.Fatalf("children of the tracer: %q", children)
	}
	return pid
}

// nothingOpen looks for files of blobs and fills that the daemon has open.
func (r *rig) nothingOpen() error {
	fds := fmt.Sprintf("/proc/%d/fd", r.pid())
	entries, err := os.ReadDir(fds)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path, err := os.Readlink(filepath.Join(fds, e.Name()))
		if err == nil && (strings.Contains(path, "/blobs/sha256/") || strings.Contains(path, "/fills/sha256/")) {
			return fmt.Errorf("%s is open", path)
		}
	}
	return nil
}
