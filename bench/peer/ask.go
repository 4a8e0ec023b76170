package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// Ask runs one of the client verbs of the daemon's program against a target, and gives the
// time from its start to the first byte that it prints. What follows is read as well: a
// verb that fails is an error.
func (f *Fleet) Ask(ctx context.Context, t *Target, verb ...string) (first time.Duration, err error) {
	if t.Admin == "" {
		return 0, fmt.Errorf("%s has no admin listener", t.Name)
	}
	cmd := exec.CommandContext(ctx, f.opts.Cistern, append(verb, "--admin", t.Admin)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as from a shell: where the kernel schedules sessions as groups, being nice is of no use
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("cistern %s: %w", verb, err)
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("cistern %s: %w", verb, err)
	}
	var b [1]byte
	_, rerr := io.ReadFull(out, b[:])
	first = time.Since(start)
	_, derr := io.Copy(io.Discard, out)
	if err := errors.Join(rerr, derr, cmd.Wait()); err != nil {
		return 0, fmt.Errorf("cistern %s: %w: %s", verb, err, bytes.TrimSpace(said.Bytes()))
	}
	return first, nil
}

// Aside runs one of the bench's own commands until ctx ends, with the processor time that
// nobody else wants: what in real life is on other machines.
func (f *Fleet) Aside(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "chrt", append([]string{"--idle", "0", f.opts.Self}, args...)...)
	if said, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("cistern-bench %s: %w: %s", args[0], err, bytes.TrimSpace(said))
	}
	return nil
}
