package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Clock tells how much of the machine others used while something was measured:
// a run on a busy machine should say so.
type Clock struct {
	start time.Time
	busy  time.Duration // of all processors since boot
	own   time.Duration // of this process and the children it has waited for
}

// StartClock begins now.
func StartClock() (Clock, error) {
	c := Clock{start: time.Now()}
	var err error
	if c.busy, err = busy(); err != nil {
		return c, err
	}
	c.own, err = own()
	return c, err
}

// Strangers returns the mean number of processors that others than this process,
// its ended children and the running ones given have kept busy since the start.
func (c Clock) Strangers(running []int) (float64, error) {
	all, err := busy()
	if err != nil {
		return 0, err
	}
	mine, err := own()
	if err != nil {
		return 0, err
	}
	alive, err := CPU(running)
	if err != nil {
		return 0, err
	}
	return max(0, (all-c.busy-(mine-c.own)-alive).Seconds()/time.Since(c.start).Seconds()), nil
}

func busy() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("busy time: %w", err)
	}
	return parseBusy(string(data))
}

// parseBusy adds what is neither idle (4) nor waiting for a disk (5) in the first
// line of /proc/stat. Guest time is part of user time already.
func parseBusy(text string) (time.Duration, error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("busy time: %q", line)
	}
	var total int64
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("busy time: %w", err)
		}
		if i != 3 && i != 4 {
			total += n
		}
	}
	return time.Duration(total) * tick, nil
}

func own() (time.Duration, error) {
	var total time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			return 0, fmt.Errorf("own CPU time: %w", err)
		}
		total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return total, nil
}
