package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
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
