package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of the times in /proc/PID/stat: USER_HZ, 100 on Linux
// whatever the kernel's own clock.
const tick = time.Second / 100

// The processes of a program are given with its own first. That one must be
// alive; children may have ended since they were listed, as the cache loader of
// nginx does after a minute, and count as nothing then.
func ended(i int, err error) bool { return i > 0 && gone(err) }

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

// CPU returns the user and system time that the processes have used so far.
func CPU(pids []int) (time.Duration, error) {
	var total time.Duration
	for i, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if ended(i, err) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("CPU time: %w", err)
		}
		d, err := parseStat(data)
		if err != nil {
			return 0, fmt.Errorf("CPU time of %d: %w", pid, err)
		}
		total += d
	}
	return total, nil
}

// parseStat adds utime and stime, fields 14 and 15 of /proc/PID/stat. The second
// field is the name in parentheses, which may hold blanks and parentheses.
func parseStat(data []byte) (time.Duration, error) {
	i := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[i+1:]))
	if i < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("%q: too few fields", data)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// ResetPeak makes the kernel forget the processes' highest memory use.
func ResetPeak(pids []int) error {
	for i, pid := range pids {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil && !ended(i, err) {
			return fmt.Errorf("resetting the peak memory: %w", err)
		}
	}
	return nil
}

// Peak returns the highest resident memory of the processes since their start or
// ResetPeak, in bytes. It is their sum: pages they share count for each.
func Peak(pids []int) (int64, error) { return status(pids, "VmHWM:") }

// Resident returns the present resident memory in bytes.
func Resident(pids []int) (int64, error) { return status(pids, "VmRSS:") }

// Anonymous returns the present anonymous memory in bytes: heap and stacks, without
// mapped files, whose pages the kernel takes back when it wants them.
func Anonymous(pids []int) (int64, error) { return status(pids, "RssAnon:") }

func status(pids []int, field string) (int64, error) {
	var total int64
	for i, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if ended(i, err) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("memory: %w", err)
		}
		n, err := parseStatus(string(data), field)
		if err != nil {
			return 0, fmt.Errorf("memory of %d: %w", pid, err)
		}
		total += n
	}
	return total, nil
}

func parseStatus(text, field string) (int64, error) {
	value, err := fieldOf(text, field)
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseInt(strings.TrimSuffix(value, " kB"), 10, 64)
	return kib << 10, err
}
