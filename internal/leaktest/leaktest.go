// Package leaktest fails a package's tests when they leave goroutines or open
// files behind. It is for TestMain only.
package leaktest

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long what is being shut down may take to be gone.
const patience = 5 * time.Second

// Main runs a package's tests and exits; it fails them when, a few seconds
// after the last, there are goroutines or open files that were not there
// before the first. Extra checks return "" or what was left behind.
func Main(m *testing.M, extra ...func() string) { os.Exit(Run(m, extra...)) }

// Run is Main for those who have something to do before they exit with its code.
func Run(m *testing.M, extra ...func() string) int {
	files := openFiles()
	code := m.Run()
	if code == 0 {
		if left := wait(files, extra); left != "" {
			fmt.Fprintf(os.Stderr, "left behind by the tests:\n%s\n", left)
			code = 1
		}
	}
	return code
}

func wait(before map[string]bool, extra []func() string) string {
	for deadline := time.Now().Add(patience); ; {
		if t, ok := http.DefaultTransport.(*http.Transport); ok {
			t.CloseIdleConnections()
		}
		left := goroutines() + newFiles(before)
		for _, check := range extra {
			left += check()
		}
		if left == "" || time.Now().After(deadline) {
			return left
		}
		<-time.After(20 * time.Millisecond)
	}
}

// goroutines describes those that are not the runtime's, the test framework's
// or this one.
func goroutines() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var b strings.Builder
	for i, g := range strings.Split(string(buf), "\n\n") {
		if i == 0 || strings.Contains(g, "testing.(*M).") || strings.Contains(g, "os/signal.") ||
			strings.Contains(g, "created by runtime") || strings.Contains(g, "testing.runFuzzing") {
			continue
		}
		b.WriteString(g + "\n\n")
	}
	return b.String()
}

// openFiles lists what the process's descriptors point at; sockets and pipes
// count by their inode.
func openFiles() map[string]bool {
	seen := map[string]bool{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return seen
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			seen[target] = true
		}
	}
	return seen
}

func newFiles(before map[string]bool) string {
	var b strings.Builder
	for f := range openFiles() {
		if before[f] || strings.HasPrefix(f, "anon_inode:") || strings.HasPrefix(f, "/dev/") || strings.HasPrefix(f, "/proc/") {
			continue
		}
		b.WriteString("open: " + f + "\n")
	}
	return b.String()
}
