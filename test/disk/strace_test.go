package disk_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cistern/test/lab"
)

// strace says how to run a daemon whose system calls on one path fail or wait, from its start on. It stops at no others.
func strace(t testing.TB, path, calls, inject string) []string {
	return []string{lab.Tool(t, "strace"), "-f", "--seccomp-bpf", "-q", "-o", "/dev/null", "-P", path,
		"-e", "trace=" + calls, "-e", "inject=" + calls + ":" + inject}
}

// An injection is a fault that lasts until it is released: system calls of a running daemon on one path fail or wait.
type injection struct {
	t      testing.TB
	strace *lab.Process
	log    string
}

// inject begins a fault. A call that waits goes on when the fault is released.
func (r *rig) inject(path, calls, fault string) *injection {
	r.t.Helper()
	i := &injection{t: r.t, log: filepath.Join(lab.Dir(r.t), "calls")}
	i.strace = lab.Start(r.t, "strace", exec.Command(lab.Tool(r.t, "strace"), "-f", "-qq", "-e", "signal=none", "-o", i.log, "-p", strconv.Itoa(r.pid()), "-P", path,
		"-e", "trace="+calls, "-e", "inject="+calls+":"+fault))
	lab.Eventually(r.t, 20*time.Second, i.strace, r.traced)
	return i
}

// traced says whether each thread of the daemon is watched by a tracer.
func (r *rig) traced() error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", r.pid()))
	if err != nil || len(tasks) == 0 {
		return errors.Join(errors.New("no threads"), err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err == nil && strings.Contains(string(text), "TracerPid:\t0\n") {
			return fmt.Errorf("%s is not traced yet", task)
		}
	}
	return nil
}

// release ends the fault.
func (i *injection) release() { i.strace.Stop(i.t) }

// met is how many calls have met the fault so far. One that waits still is met.
func (i *injection) met() int {
	i.t.Helper()
	text, err := os.ReadFile(i.log)
	if err != nil {
		i.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "resumed>") {
			n++
		}
	}
	return n
}

// meets waits until a call has met the fault.
func (i *injection) meets() {
	i.t.Helper()
	lab.Eventually(i.t, 30*time.Second, i.strace, func() error {
		if i.met() == 0 {
			return errors.New("no call has met the fault")
		}
		return nil
	})
}
