package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// gentleness is the nice value of a verb that hashes gigabytes.
const gentleness = 19

// gentle has this process give way to all others, first of all to the daemon beside it that
// serves hits. Threads that are made later inherit it. What the system does not let it do is
// no reason not to go on.
func gentle() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, gentleness)
		}
	}
}
