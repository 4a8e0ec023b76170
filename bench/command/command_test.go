package command_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cistern/bench/command"
	"cistern/internal/leaktest"
)

// childVar makes this test binary the program that the bench starts itself as.
const childVar = "CISTERN_BENCH_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVar) == "" {
		if err := os.Setenv(childVar, "1"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		leaktest.Main(m)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := command.New().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	c := command.New()
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(&errs)
	err = c.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

// The naive proxy is Cistern's stand-in: the whole way from the start of the
// registry to the report, in small.
func TestQuickRun(t *testing.T) {
	t.Parallel()
	tmp, results := t.TempDir(), t.TempDir()
	out, errs, err := run(t, "run", "--quick", "--only", "many-small,start", "--peers", "direct,go-floor,cistern",
		"--cistern", "/no/such/daemon", "--nginx", "/no/such/nginx", "--tmp", tmp, "--results", results, "--digest-cache", filepath.Join(tmp, "digests"))
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	for _, want := range []string{"Cistern is not at /no/such/daemon", "nginx is not at /no/such/nginx"} {
		if !strings.Contains(errs, want) {
			t.Errorf("no word of %q in\n%s", want, errs)
		}
	}
	for _, want := range []string{
		"not measured", "## start",
		"| upstream bodies / blobs | direct | go-floor |\n|---|---:|---:|\n| plain rtt 0 ms | 1 | 1 |\n| plain rtt 20 ms | 1 | 1 |",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
	if files, err := filepath.Glob(filepath.Join(results, "*.md")); err != nil || len(files) != 1 {
		t.Errorf("reports %v, %v", files, err)
	}
	if left, err := filepath.Glob(filepath.Join(tmp, "cistern-bench-*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What the naive proxy does to a fill is known: it fetches the whole blob at the first
// range, and keeps nothing of one that was broken off.
func TestQuickFills(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	out, errs, err := run(t, "run", "--quick", "--only", "resume,ranges,head,cold", "--peers", "direct,go-floor",
		"--cistern", "/no/such/daemon", "--nginx", "/no/such/nginx", "--tmp", tmp, "--digest-cache", filepath.Join(tmp, "digests"))
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	for _, want := range []string{
		"| upstream bytes after the kill / size | go-floor |\n|---|---:|\n| plain 64 MiB | 1 |",
		"| bytes compared, MiB | direct | go-floor |\n|---|---:|---:|\n| plain 200 of 64 MiB | 12.5 | 12.5 |\n| plain 20 of 32 MiB | 1.25 | 1.25 |",
		"| upstream bytes / size | direct | go-floor |\n|---|---:|---:|\n| plain 20 of 32 MiB | 0.039 | 1 |",
		"| upstream bytes / size | go-floor |\n|---|---:|\n| plain 50 readers at the head of 4 MB/s | 1 |",
		"| writing calls/reader/s | go-floor |\n|---|---:|\n| plain 50 readers at the head of 4 MB/s | ",
		"| CPU s/GB | go-floor |\n|---|---:|\n| plain 64 MiB, cold | ",
		"| allocations/MiB | go-floor |\n|---|---:|\n| plain 64 MiB, cold | – |\n| plain 64 MiB, warm | – |",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"run", "--only", "herds"},
		{"run", "--nonsense"},
		{"measure"},
		{"demo", "--cistern", "/no/such/daemon"},
		{"floor", "extra"},
	} {
		if _, _, err := run(t, args...); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
