// Package proc starts the programs under measurement and reads what they cost
// from /proc: Linux only. It ends what it started by process id and nothing else.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Spec is a program to start.
type Spec struct {
	Path string
	Args []string
	Env  []string // beside the bench's own
	// Log is the file that gets the standard output and error.
	Log string
	// Stdout, when set, gets the standard output instead.
	Stdout io.Writer
	// Idle gives it the processor time that nobody else wants.
	Idle bool
}

// Process is a running program with its children. Its methods may be called from
// several goroutines, Stop and Kill any number of times.
type Process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
}

// Start starts a program. It must be ended by Stop or Kill.
func Start(s Spec) (*Process, error) {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", s.Path, err)
	}
	if s.Idle {
		s.Path, s.Args = "chrt", append([]string{"--idle", "0", s.Path}, s.Args...) // it execs: the process is the program's own
	}
	cmd := exec.Command(s.Path, s.Args...)
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if s.Stdout != nil {
		cmd.Stdout = s.Stdout
	}
	// A group of its own: ctrl-C in a terminal reaches the bench alone, which then
	// ends its children in order and can still read what they cost.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", s.Path, err), log.Close())
	}
	p := &Process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		// How it ended is in ProcessState; what it wrote is in the file.
		_, _ = cmd.Wait(), log.Close()
		close(p.done)
	}()
	return p, nil
}

// Pid is the process id of the program itself.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Log returns the end of the program's log, for messages about its failure.
func (p *Process) Log() string {
	data, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data[max(len(data)-2000, 0):]))
}

// stopTime is how long a program may take to end on SIGTERM: Cistern drains for
// up to 8 s.
const stopTime = 12 * time.Second

// Stop ends the program with SIGTERM, and with SIGKILL if that is not enough. It
// returns how long that took.
func (p *Process) Stop() time.Duration {
	start := time.Now()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTime):
		p.Kill()
	}
	return time.Since(start)
}

// Kill ends the program at once.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

func (p *Process) signal(sig syscall.Signal) {
	// os.Process knows when the process was waited for, so that a pid used again
	// is never hit; "already finished" is no failure.
	_ = p.cmd.Process.Signal(sig)
}

// Pids are the program and its children, their children included: the workers
// of nginx.
func (p *Process) Pids() []int { return Family(p.Pid()) }

// Family returns pid and all below it that live.
func Family(pid int) []int {
	pids := []int{pid}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return pids
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for _, s := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(s); err == nil {
				pids = append(pids, Family(child)...)
			}
		}
	}
	return pids
}

// Await calls ready until it returns nil, the program ends or the time is up.
func (p *Process) Await(ctx context.Context, within time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended (%s): %s", p.cmd.Path, p.cmd.ProcessState, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("%s not ready within %s: %w: %s", p.cmd.Path, within, err, p.Log())
		case <-time.After(2 * time.Millisecond):
		}
	}
}
