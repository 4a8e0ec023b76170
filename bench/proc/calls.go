package proc

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Writes returns how many calls that write the processes have made so far: write,
// pwrite and sendfile, whatever came of them, to sockets, files and eventfds alike (the
// kernel's syscw; send and sendmsg are not in it).
func Writes(pids []int) (int64, error) { return count(pids, "/proc/%d/io", "syscw:") }

// Switches returns how often the threads of the processes have gone to sleep so far.
// A thread that ends takes its count along.
func Switches(pids []int) (int64, error) {
	return count(pids, "/proc/%d/task/*/status", "voluntary_ctxt_switches:")
}

// count adds up a field over the files that a pattern with the process id names.
func count(pids []int, pattern, field string) (int64, error) {
	var total int64
	for i, pid := range pids {
		names, err := filepath.Glob(fmt.Sprintf(pattern, pid))
		if err != nil {
			return 0, fmt.Errorf("calls of %d: %w", pid, err)
		}
		found := false
		for _, name := range names {
			n, err := countIn(name, field)
			if gone(err) {
				continue // a thread or a child that has ended since
			}
			if err != nil {
				return 0, fmt.Errorf("calls of %d: %w", pid, err)
			}
			total, found = total+n, true
		}
		if i == 0 && !found {
			return 0, fmt.Errorf("calls of %d: %w", pid, fs.ErrNotExist)
		}
	}
	return total, nil
}

func countIn(name, field string) (int64, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	value, err := fieldOf(string(data), field)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(value, 10, 64)
}

// fieldOf is what a file of /proc has behind a name at the start of a line.
func fieldOf(text, name string) (string, error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(rest), nil
		}
	}
	return "", fmt.Errorf("no line %s", name)
}
