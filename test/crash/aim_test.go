package crash_test

import (
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

// aim has the daemon killed, or halted where the power is to be cut, as it enters a system call. What is under way fails
// from a moment on that nobody knows before.
func (d *driver) aim(t *testing.T, c *lab.Cistern, l *load, how ending) {
	t.Helper()
	signal := "SIGKILL"
	if how.cut {
		signal = "SIGSTOP"
	}
	l.ending.Store(true)
	d.ledger.ending() // or later
	log := attach(t, c, "-e", "trace="+how.call, "-e", fmt.Sprintf("inject=%s:signal=%s:when=%d", how.call, signal, how.nth))
	l.over = func() bool { return halted(c, log) }
}

// halted tells whether a daemon has ended, or was stopped, as the log of its tracer says.
func halted(c *lab.Cistern, log string) bool {
	select {
	case <-c.Exited():
		return true
	default:
	}
	text, err := os.ReadFile(log)
	return err == nil && strings.Contains(string(text), "stopped by SIGSTOP")
}

// attach puts strace, with its rules, on a running daemon until the test is over, and gives the path of its log.
func attach(t *testing.T, c *lab.Cistern, rules ...string) (log string) {
	t.Helper()
	log = filepath.Join(lab.Dir(t), "calls")
	args := append([]string{"-f", "-qq", "-o", log, "-p", strconv.Itoa(c.PID())}, rules...)
	lab.Start(t, "strace", exec.Command(lab.Tool(t, "strace"), args...))
	lab.Eventually(t, 10*time.Second, nil, func() error {
		select {
		case <-c.Exited(): // it has met its end already
			return nil
		default:
			return traced(c.PID())
		}
	})
	return log
}

// traced says whether each thread of a process is watched by a tracer.
func traced(pid int) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		return fmt.Errorf("no threads of %d: %v", pid, err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err == nil && strings.Contains(string(text), "TracerPid:\t0\n") {
			return fmt.Errorf("%s is not traced yet", task)
		}
	}
	return nil
}
