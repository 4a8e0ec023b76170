package disk_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cistern/test/lab"
)

// strace says how to run a daemon whose system calls on one path fail or wait, from its start on. It stops at no others.
func strace(t testing.TB, path, calls, inject string) []string {
	return []string{lab.Tool(t, "strace"), "-f", "--seccomp-bpf", "-q", "-o", "/dev/null", "-P", path,
		"-e", "trace=" + calls, "-e", "inject=" + calls + ":" + inject}
}

// An injector makes system calls of a running daemon fail or wait.
type injector struct {
	*lab.Process
	log string
	t   testing.TB
}

// inject makes calls of the daemon that touch one of the paths fail, or wait, until stop. A path need not be there yet.
func (r *rig) inject(calls, what string, paths ...string) *injector {
	r.t.Helper()
	in := &injector{t: r.t, log: filepath.Join(lab.Dir(r.t), "calls")}
	args := []string{"-f", "-p", fmt.Sprint(r.pid()), "-o", in.log, "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + what}
	for _, p := range paths {
		args = append(args, "-P", p)
	}
	in.Process = lab.Start(r.t, "strace", exec.Command(lab.Tool(r.t, "strace"), args...))
	// All threads there are now; strace follows those made later.
	lab.Eventually(r.t, 10*time.Second, in.Process, func() error {
		return traced(r.pid())
	})
	return in
}

// traced says whether each thread of a process is watched by a tracer.
func traced(pid int) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		return fmt.Errorf("no threads of %d: %w", pid, err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err == nil && strings.Contains(string(text), "TracerPid:\t0\n") {
			return fmt.Errorf("%s is not traced yet", task)
		}
	}
	return nil
}

// happened waits until the fault was met.
func (in *injector) happened() {
	in.t.Helper()
	lab.Eventually(in.t, 20*time.Second, in.Process, func() error {
		if text, err := os.ReadFile(in.log); err != nil || !strings.Contains(string(text), "INJECTED") && !strings.Contains(string(text), "DELAYED") {
			return fmt.Errorf("no call has met the fault yet: %w", err)
		}
		return nil
	})
}

// stop lets the daemon be.
func (in *injector) stop() {
	in.t.Helper()
	if err := in.Signal(syscall.SIGINT); err != nil {
		in.t.Error(err)
	}
	<-in.Exited()
}
