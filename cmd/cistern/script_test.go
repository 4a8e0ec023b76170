package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cistern/internal/registrytest"
)

// patience bounds each wait of the tests.
const patience = 20 * time.Second

// TestScripts runs the real program. In the scripts, beside the usual commands:
//
//	daemon NAME ARGS...    start `cistern serve ARGS` and wait until it tells systemd that it is ready;
//	                       sets NAME_ADDR and NAME_ADMIN
//	signal NAME TERM|...   send a signal: INT, HUP, KILL
//	ended NAME CODE        wait until it has ended, with that exit code; -1 if a signal ended it
//	logged NAME REGEXP     wait until its log holds that
//	printed NAME REGEXP    the same of its standard output
//	get STATUS URL         ask, and print status, header and body
//	flip DIGEST OFFSET     change a byte of a blob in ./cache, once it is recorded
//	pull URL REPO TAG      get an image whole
//
// $UPSTREAM is a registry that holds team/app:v1, with $LAYER.
func TestScripts(t *testing.T) {
	t.Parallel()
	upstream := registrytest.New(t)
	layer := bytes.Repeat([]byte("layer "), 100_000)
	digest := upstream.Put("team/app", layer)
	upstream.PutImage("team/app", "v1", layer)
	upstream.PutImage("library/app", "v1", layer)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("UPSTREAM", upstream.URL)
			e.Setenv("LAYER", digest.String())
			e.Values["daemons"] = map[string]*process{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": startDaemon, "signal": sendSignal, "ended": ended, "logged": logged, "printed": printed, "get": get, "flip": flip, "pull": pull,
		},
	})
}

// process is a daemon under test.
type process struct {
	cmd         *exec.Cmd
	stdout, log string        // files
	done        chan struct{} // closed when it has ended
}

func daemons(ts *testscript.TestScript) map[string]*process {
	return ts.Value("daemons").(map[string]*process)
}

func startDaemon(ts *testscript.TestScript, _ bool, args []string) {
	name := args[0]
	// The name of a unix socket has room for 107 bytes.
	dir, err := os.MkdirTemp("", "c")
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"})
	ts.Check(err)
	defer socket.Close()

	p := &process{stdout: ts.MkAbs(name + ".out"), log: ts.MkAbs(name + ".log"), done: make(chan struct{})}
	out, err := os.Create(p.stdout)
	ts.Check(err)
	defer out.Close()
	log, err := os.Create(p.log)
	ts.Check(err)
	defer log.Close()
	path, err := exec.LookPath("cistern")
	ts.Check(err)
	p.cmd = exec.Command(path, append([]string{"serve"}, args[1:]...)...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = ts.MkAbs("."), out, log
	p.cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "NOTIFY_SOCKET="+filepath.Join(dir, "s"), "HUB_PASSWORD="+canary)
	ts.Check(p.cmd.Start())
	daemons(ts)[name] = p
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // its code is looked at by ended
	}()
	ts.Defer(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	awaitReady(ts, p, socket)
	text := ts.ReadFile(name + ".out")
	m := regexp.MustCompile(`listens on (\S+) \(admin: (\S+)\)`).FindStringSubmatch(text)
	if m == nil {
		ts.Fatalf("no addresses in %q", text)
	}
	ts.Setenv(name+"_ADDR", m[1])
	ts.Setenv(name+"_ADMIN", m[2])
}

// awaitReady waits for READY=1, as systemd does.
func awaitReady(ts *testscript.TestScript, p *process, socket *net.UnixConn) {
	ts.Check(socket.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 1024)
	n, err := socket.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		text, _ := os.ReadFile(p.log)
		ts.Fatalf("not ready: %q, %v; its log: %s", b[:n], err, text)
	}
}

func sendSignal(ts *testscript.TestScript, _ bool, args []string) {
	sig, ok := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}[args[1]]
	if !ok {
		ts.Fatalf("unknown signal %s", args[1])
	}
	ts.Check(daemons(ts)[args[0]].cmd.Process.Signal(sig))
}

func ended(ts *testscript.TestScript, _ bool, args []string) {
	p := daemons(ts)[args[0]]
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("%s has not ended", args[0])
	}
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); got != args[1] {
		ts.Fatalf("%s ended with %s, want %s", args[0], got, args[1])
	}
}

func logged(ts *testscript.TestScript, neg bool, args []string) {
	await(ts, neg, daemons(ts)[args[0]].log, args[1])
}

func printed(ts *testscript.TestScript, neg bool, args []string) {
	await(ts, neg, daemons(ts)[args[0]].stdout, args[1])
}

// await looks into a file until it matches; it never must if neg.
func await(ts *testscript.TestScript, neg bool, file, pattern string) {
	re := regexp.MustCompile("(?m)" + pattern)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); ; {
		text, err := os.ReadFile(file)
		ts.Check(err)
		found := re.Match(text)
		switch {
		case found && neg:
			ts.Fatalf("%s matches %q:\n%s", filepath.Base(file), pattern, text)
		case found || neg:
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s never matched %q:\n%s", filepath.Base(file), pattern, text)
		}
	}
}

// flip waits for the blob's place: it lies there a second after it came, at most.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	alg, hex, _ := strings.Cut(args[0], ":")
	name := ts.MkAbs(filepath.Join("cache", "blobs", alg, hex[:2], hex))
	off, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); ; {
		if f, err := os.OpenFile(name, os.O_RDWR, 0); err == nil {
			b := make([]byte, 1)
			_, err = f.ReadAt(b, off)
			ts.Check(err)
			b[0] ^= 1
			_, err = f.WriteAt(b, off)
			ts.Check(errors.Join(err, f.Close()))
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s is not there", name)
		}
	}
}

func get(ts *testscript.TestScript, _ bool, args []string) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(args[1])
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if got := strconv.Itoa(resp.StatusCode); got != args[0] {
		ts.Fatalf("%s answered %s, want %s: %.500s", args[1], got, args[0], body)
	}
	fmt.Fprintf(ts.Stdout(), "%s\n", resp.Status)
	_ = resp.Header.Write(ts.Stdout())
	fmt.Fprintf(ts.Stdout(), "\n%s\n", strings.ToValidUTF8(string(body), "?"))
}
