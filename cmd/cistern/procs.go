package main

import "runtime"

// waiters is how many goroutines wait for the disk at once at most, each in a
// system call: those that sync a checkpoint.
const waiters = 8

// addProcs lets Go run on more threads than there are processors, unless the
// operator has said how many. Whoever is in a system call keeps one of them
// until the runtime notices, which takes it up to ten milliseconds; on a small
// machine a checkpoint has them all then, and hits wait (decision 14). The
// returned function undoes it; it is process-wide, and there must be one.
func addProcs(getenv func(string) string) (stop func()) {
	if getenv("GOMAXPROCS") != "" {
		return func() {}
	}
	was := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(was + min(was, waiters))
	return runtime.SetDefaultGOMAXPROCS
}
