package report

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
)

// Machine describes where a run was made, in one line.
func Machine() string {
	return fmt.Sprintf("%s, %d cores, %s, Linux %s, %s, commit %s",
		cpu(), runtime.NumCPU(), memory(), read("/proc/sys/kernel/osrelease"), runtime.Version(), commit())
}

// Slug is a short form of the machine for file names.
func Slug() string {
	s := regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(cpu()), "-")
	return strings.Trim(s, "-") + fmt.Sprintf("-%dc", runtime.NumCPU())
}

func cpu() string {
	if v := field("/proc/cpuinfo", "model name"); v != "" {
		return v
	}
	return runtime.GOARCH
}

func memory() string {
	var kib int64
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kib); err != nil {
		return "memory unknown"
	}
	return fmt.Sprintf("%d GiB", (kib+1<<19)>>20)
}

func read(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(data))
}

func field(file, name string) string {
	for line := range strings.Lines(read(file)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// FileSystem names the type and the device of what holds dir: creating, syncing
// and deleting files costs what it wills.
func FileSystem(dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "unknown"
	}
	best, found := "", "unknown"
	for line := range strings.Lines(read("/proc/self/mountinfo")) {
		left, right, ok := strings.Cut(line, " - ")
		fields, after := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(after) < 2 {
			continue
		}
		at := fields[4]
		if within := at == "/" || abs == at || strings.HasPrefix(abs, at+"/"); within && len(at) >= len(best) {
			best, found = at, after[0]+" on "+after[1]
		}
	}
	return found
}

// commit is what the working tree stands at; a build carries it only when it was
// made with version control stamping.
func commit() string {
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
