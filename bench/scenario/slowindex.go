package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"cistern/bench/peer"
)

// tracer finds strace; "" where it is not, or may not trace.
func tracer(ctx context.Context) string {
	path, err := exec.LookPath("strace")
	if err != nil || exec.CommandContext(ctx, path, "-D", "--seccomp-bpf", "-f", "-o", os.DevNull, "-e", "trace=fsync", "true").Run() != nil {
		return ""
	}
	return path
}

// traced are the arguments of a tracer that stops a program at fsyncs alone (the
// kernel filters, so that all else runs at full speed), and writes them to log
// with the names of the files. The program stays the process that was started.
func traced(path, log string, more ...string) []string {
	args := []string{path, "-D", "-f", "--seccomp-bpf", "-y", "-ttt", "-o", log, "-e", "trace=fsync,fdatasync,syncfs,sync,sync_file_range,msync"}
	return append(args, more...)
}

// slowIndex times hits with each fsync of index.db delayed by a second, beside a
// light storm so that there are commits. Tracing costs time of its own: the
// yardstick is a daemon that is traced in the same way without the delay, idle, and
// once more beside the same storm.
func (b *Bench) slowIndex(ctx context.Context, o *peer.Origin, stocked *peer.Target) error {
	strace := tracer(ctx)
	if strace == "" {
		b.Logf("storm: no strace here: a slow fsync of the index is not measured")
		return nil
	}
	im, err := b.stock(ctx, o, stocked)
	if err != nil {
		return err
	}
	b.Fleet.Halt(stocked)
	index := filepath.Join(stocked.Cache, "index.db")
	light := func(t *peer.Target) *storming {
		return &storming{target: t, clients: stormClients, every: 10 * stormEvery}
	}
	for range b.Rounds {
		for _, c := range []struct {
			name   string
			inject []string
			beside bool
		}{
			{slowIdle, nil, false},
			{slowNot, nil, true},
			{slowSecond, []string{"-P", index, "-e", "inject=fsync,fdatasync:delay_enter=1000000"}, true},
		} {
			folder, err := b.Fleet.Folder("strace")
			if err != nil {
				return err
			}
			log := filepath.Join(folder, "syncs")
			t, err := b.Fleet.StartWith(ctx, peer.Cistern, o, peer.Setting{Cache: stocked.Cache, Wrapper: traced(strace, log, c.inject...)})
			if err != nil {
				return err
			}
			var s *storming
			if c.beside {
				s = light(t)
			}
			err = errors.Join(b.hitsBeside(ctx, o, t, im, c.name, s), b.indexSyncs(c.name, t, log), b.Fleet.Stop(t))
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// indexSyncs records how many fsyncs of the index there were: a case with a slow
// one in which there was none says nothing.
func (b *Bench) indexSyncs(cas string, t *peer.Target, log string) error {
	data, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	b.add(cas, t.Name, "fsyncs of index.db meanwhile", float64(strings.Count(string(data), "/index.db>")))
	return nil
}
