package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A Process is one program started by a test, with its output in a file. It is the leader of its own process
// group and is ended, group and all, when the test is over.
type Process struct {
	Name string
	Log  string // path of stdout and stderr together

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been waited for
}

// Start runs cmd in the background for the length of the test. A failed test prints the end of the output
// and keeps all of it (see keepLog).
func Start(t testing.TB, name string, cmd *exec.Cmd) *Process {
	t.Helper()
	log, err := os.Create(filepath.Join(Dir(t), name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{Name: name, Log: log.Name(), cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	_ = log.Close()
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			t.Logf("the end of %s's output (whole: %s):\n%s", name, keepLog(t, p.Log), p.tail(12))
		}
	})
	return p
}

// PID is the process id of the program.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed once the program has ended.
func (p *Process) Exited() <-chan struct{} { return p.done }

// ExitCode is the program's exit code; -1 while it runs or when a signal ended it.
func (p *Process) ExitCode() int {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// Signal sends sig to the program alone, not to its group.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop ends the process group: SIGTERM, and SIGKILL for what is left after 20 seconds. It may be called again.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	group := -p.cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Errorf("%s did not end within 20 s of SIGTERM", p.Name)
	}
	// Also what a finished leader left behind in its group.
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-p.done
}

// Kill ends the process group by SIGKILL and waits for it.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// Output is everything that the program has printed so far.
func (p *Process) Output() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (p *Process) tail(lines int) string {
	all := strings.Split(strings.TrimRight(p.Output(), "\n"), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		all[i] = line[:min(len(line), 300)]
	}
	return strings.Join(all, "\n")
}

// keepLog copies the output where it survives the test and returns that place: the folder named by
// CISTERN_LAB_LOGS, or .cache/e2e-logs at the root of the project.
func keepLog(t testing.TB, path string) string {
	dir := os.Getenv("CISTERN_LAB_LOGS")
	if dir == "" {
		dir = filepath.Join(Root(t), ".cache", "e2e-logs")
	}
	dir = filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_"))
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	kept := filepath.Join(dir, filepath.Base(path))
	if err == nil {
		err = os.WriteFile(kept, b, 0o644)
	}
	if err != nil {
		return err.Error()
	}
	return kept
}

// Run runs cmd to its end, for at most five minutes, and returns its standard output. The error holds what it
// printed on both outputs.
func Run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	stop()
	if err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), errors.Join(err, ctx.Err()),
			strings.TrimSpace(out.String()+diag.String()))
	}
	return out.String(), nil
}

// Eventually polls until ok returns nil, and fails the test with the last error after the given time, or at
// once when p (which may be nil) has ended meanwhile.
func Eventually(t testing.TB, within time.Duration, p *Process, ok func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var gone <-chan struct{}
	name := ""
	if p != nil {
		gone, name = p.done, p.Name
	}
	deadline := time.After(within)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-gone:
			t.Fatalf("%s ended with exit code %d: %v\n%s", name, p.ExitCode(), err, p.tail(12))
		case <-deadline:
			t.Fatalf("%s: not within %v: %v", name, within, err)
		}
	}
}

// Answers is a condition for Eventually: url answers with status.
func Answers(url string, status int) func() error {
	return func() error {
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != status {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
		return nil
	}
}

// Dials is a condition for Eventually: something accepts at the address.
func Dials(network, addr string) func() error {
	return func() error {
		c, err := net.DialTimeout(network, addr, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// nextPort hands out ports below the range that the kernel uses for outgoing connections. The namespace
// belongs to this process alone, so a number given once is free.
var nextPort atomic.Int32

// Addr is a loopback address with a port that nobody else in this lab was given.
func Addr() string { return fmt.Sprintf("127.0.0.1:%d", 10000+nextPort.Add(1)) }

// Dir makes a folder with a short path (unix sockets allow 107 bytes) that goes away with the test.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return dir
}

// Root is the root of the project: the nearest folder above the working directory that holds .git or the
// main module's go.mod.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(b, []byte("module cistern\n")) {
			return dir
		}
	}
	t.Fatal("no go.mod of module cistern above the working directory")
	return ""
}

// Tool is the path of a program that `make tools` put into the cache folder, or of an installed one of that
// name; a test that needs a program which is not there fails.
func Tool(t testing.TB, name string) string {
	t.Helper()
	root := filepath.Join(Root(t), ".cache", "tools")
	found, _ := filepath.Glob(filepath.Join(root, name+"@*", name))
	if len(found) == 1 {
		return found[0]
	}
	path, err := exec.LookPath(name)
	if err != nil || len(found) > 1 {
		t.Fatalf("program %s: %v; in %s: %v; `make -C test tools` gets it", name, err, root, found)
	}
	return path
}
