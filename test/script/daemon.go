package script

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"cistern/test/lab"
)

func cmdConfig(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 1, 1)
	of(ts).config = expand(ts, ts.ReadFile(args[0]))
}

// cmdCistern starts the daemon and caches the canary: a small blob which every script's faults must leave alone.
func cmdCistern(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	o := lab.CisternOptions{Config: s.config, Cache: s.cache, Args: args, Env: []string{"LAB_PASSWORD=pa55word"}}
	if o.Config == "" {
		o.Config = defaultConfig(ts.Getenv("ORIGIN"))
	}
	s.dead = neg
	if neg {
		s.daemon = lab.LaunchCistern(s.t, o)
		select {
		case <-s.daemon.Exited():
		case <-time.After(10 * time.Second):
			ts.Fatalf("it runs, and should have refused to start")
		}
		return
	}
	s.daemon = lab.StartCistern(s.t, o)
	ts.Setenv("CISTERN", s.daemon.Addr)
	ts.Setenv("CISTERN_ADMIN", s.daemon.Admin)
	ts.Setenv("CACHE", s.cache)
	s.canary = s.content.Random("CANARY", s.name, 120_000)
	if s.getCanary(); !s.getCanary().isHit(s.canary) {
		ts.Logf("the daemon does not cache: there will be no canary")
		s.canary = ""
	}
}

// isHit tells whether this is the whole blob from the cache.
func (r result) isHit(digest string) bool {
	return r.err == nil && r.status == 200 && r.digest == digest && strings.Contains(r.header.Get("Cache-Status"), "hit")
}

func (s *state) getCanary() result {
	r, err := parseGet([]string{s.daemon.URL + "/v2/lab/canary/blobs/" + s.canary})
	if err != nil {
		return result{err: err}
	}
	return r.do(s.done)
}

func running(ts *testscript.TestScript) *lab.Cistern {
	s := of(ts)
	if s.daemon == nil {
		ts.Fatalf("no daemon was started")
	}
	return s.daemon
}

func cmdKill(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 0, 0)
	running(ts).Kill()
	of(ts).dead = true
}

func cmdTerm(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 0, 0)
	d := running(ts)
	ts.Check(d.Signal(syscall.SIGTERM))
	select {
	case <-d.Exited():
	case <-time.After(15 * time.Second):
		ts.Fatalf("it does not end within 15 s of SIGTERM")
	}
	of(ts).dead = true
}

func cmdRestart(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 0, 0)
	s := of(ts)
	running(ts).Restart(s.t)
	s.dead = false
	ts.Setenv("CISTERN_ADMIN", s.daemon.Admin)
}

func cmdSecond(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 0, 0)
	s := of(ts)
	_ = running(ts)
	second := lab.LaunchCistern(s.t, lab.CisternOptions{Config: defaultConfig(ts.Getenv("ORIGIN")), Cache: s.cache})
	select {
	case <-second.Exited():
	case <-time.After(5 * time.Second):
		ts.Fatalf("the second daemon runs as well")
	}
	if code := second.ExitCode(); code != 1 && code != 2 {
		ts.Fatalf("the second daemon ends with %d: %s", code, second.Output())
	}
	if out := second.Output(); !strings.Contains(out, s.cache) || !strings.Contains(out, "lock") && !strings.Contains(out, "use") {
		ts.Fatalf("the second daemon does not say what is wrong: %s", out)
	}
}

func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 1, 1)
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	d := running(ts)
	select {
	case <-d.Exited():
	case <-time.After(10 * time.Second):
		ts.Fatalf("it still runs")
	}
	of(ts).dead = true
	if d.ExitCode() != code {
		ts.Fatalf("exit code %d", d.ExitCode())
	}
}

// cmdLog waits up to five seconds for a line of the daemon's output, or, negated, looks whether there is one.
func cmdLog(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 1, 1)
	re, err := regexp.Compile("(?m)" + expand(ts, args[0]))
	ts.Check(err)
	d := running(ts)
	if neg {
		if m := re.FindString(d.Output()); m != "" {
			ts.Fatalf("the log has %q", m)
		}
		return
	}
	lab.Eventually(of(ts).t, 5*time.Second, nil, func() error {
		if !re.MatchString(d.Output()) {
			return fmt.Errorf("no line of the log matches %s", re)
		}
		return nil
	})
}

// cmdMetric waits up to five seconds for a value: some are counted after the answer.
func cmdMetric(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 2, 9)
	d, t := running(ts), of(ts).t
	lab.Eventually(t, 5*time.Second, d.Process, func() error {
		if err := compare(args[1], d.Metric(t, args[0], args[2:]...)); err != nil {
			return fmt.Errorf("%s %v: %w", args[0], args[2:], err)
		}
		return nil
	})
}

// cmdCache changes what the cache directory lies on.
func cmdCache(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 1, 2)
	s := of(ts)
	filler := filepath.Join(s.cache, "not-ours")
	switch args[0] {
	case "tmpfs":
		usage(ts, args, 2, 2)
		s.mount(ts, "tmpfs", "tmpfs", 0, "mode=700,size="+args[1])
	case "readonly":
		s.mount(ts, s.cache, "", unix.MS_BIND, "")
		ts.Check(unix.Mount("", s.cache, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	case "fill":
		f, err := os.Create(filler)
		ts.Check(err)
		defer f.Close()
		if _, err := io.Copy(f, zeros{}); !errors.Is(err, syscall.ENOSPC) {
			ts.Fatalf("filling the file system up: %v", err)
		}
	case "free":
		ts.Check(os.Remove(filler))
	default:
		ts.Fatalf("cache %s?", args[0])
	}
}

func (s *state) mount(ts *testscript.TestScript, source, kind string, flags uintptr, data string) {
	ts.Check(unix.Mount(source, s.cache, kind, flags, data))
	s.t.Cleanup(func() {
		if err := unix.Unmount(s.cache, 0); err != nil {
			s.t.Errorf("unmount %s: %v", s.cache, err)
		}
	})
}

// zeros is an endless stream of zero bytes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// cmdCheck ends a script: whatever it did, the daemon lives and has lost nothing.
func cmdCheck(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 0, 1)
	s := of(ts)
	d := running(ts)
	s.checked = true
	for _, bad := range []string{"panic:", "goroutine 1 ", "DATA RACE", "fatal error:"} {
		if strings.Contains(d.Output(), bad) {
			ts.Fatalf("the daemon's output has %q", bad)
		}
	}
	if s.dead {
		return
	}
	for _, o := range s.origins {
		o.Down()
	}
	select {
	case <-d.Exited():
		ts.Fatalf("the daemon has ended with exit code %d", d.ExitCode())
	default:
	}
	if s.canary == "" || len(args) > 0 && args[0] == "-evicted" {
		return
	}
	if r := s.getCanary(); !r.isHit(s.canary) {
		ts.Fatalf("the canary is lost: status %d, Cache-Status %q, %d bytes, %v", r.status, r.header.Get("Cache-Status"), r.size, r.err)
	}
}
