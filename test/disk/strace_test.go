package disk_test

import (
	"testing"

	"cistern/test/lab"
)

// strace says how to run a daemon whose system calls on one path fail or wait, from its start on. It stops at no others.
func strace(t testing.TB, path, calls, inject string) []string {
	return []string{lab.Tool(t, "strace"), "-f", "--seccomp-bpf", "-q", "-o", "/dev/null", "-P", path,
		"-e", "trace=" + calls, "-e", "inject=" + calls + ":" + inject}
}
