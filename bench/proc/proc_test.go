package proc

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const line = "4242 (a (strange) name) S 1 4242 4242 0 -1 4194560 100 0 0 0 250 75 3 4 20 0 5 0 100 1000 200"
	if d, err := parseStat([]byte(line)); err != nil || d != 3250*time.Millisecond {
		t.Errorf("parseStat = %s, %v, want 3.25s", d, err)
	}
	for _, bad := range []string{"", "1 (x) S 1 2", "no parenthesis 1 2 3 4 5 6 7 8 9 10 11 12 13 14", "1 (x) S 1 2 3 4 5 6 7 8 9 10 a b 1"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) found a time", bad)
		}
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	const text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"
	if n, err := parseStatus(text, "VmHWM:"); err != nil || n != 2<<20 {
		t.Errorf("peak = %d, %v", n, err)
	}
	if _, err := parseStatus(text, "VmSwap:"); err == nil {
		t.Error("a field that is not there was found")
	}
}

// A program that writes so often has made so many calls more, and one that has ended
// has none.
func TestCalls(t *testing.T) {
	t.Parallel()
	p := shell(t, "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; done; echo up; exec sleep 60")
	alone := []int{p.Pid()}
	asleep := func(context.Context) error {
		n, err := Switches(alone)
		if err == nil && (n == 0 || !strings.HasSuffix(p.Log(), "up")) {
			err = fmt.Errorf("went to sleep %d times", n)
		}
		return err
	}
	if err := p.Await(t.Context(), 5*time.Second, asleep); err != nil {
		t.Fatal(err)
	}
	if n, err := Writes(alone); err != nil || n != 11 {
		t.Errorf("%d writes, %v, want 11", n, err)
	}
	if n, err := Writes(append(alone, 1<<22+1)); err != nil || n != 11 {
		t.Errorf("with a child that has ended: %d writes, %v", n, err)
	}
	p.Kill()
	for name, read := range map[string]func([]int) (int64, error){"writes": Writes, "switches": Switches} {
		if n, err := read(alone); err == nil {
			t.Errorf("a process that has ended has %d %s", n, name)
		}
	}
}

func TestFieldOf(t *testing.T) {
	t.Parallel()
	const text = "syscr: 3\nnonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t7\n"
	if v, err := fieldOf(text, "voluntary_ctxt_switches:"); err != nil || v != "7" {
		t.Errorf("%q, %v, want 7", v, err)
	}
	if _, err := fieldOf(text, "syscw:"); err == nil {
		t.Error("a field that is not there was found")
	}
}

func TestParseBusy(t *testing.T) {
	t.Parallel()
	if d, err := parseBusy("cpu  100 10 50 9999 8888 5 6 7 100 0\ncpu0 1 2"); err != nil || d != 1780*time.Millisecond {
		t.Errorf("parseBusy = %s, %v, want 1.78s", d, err)
	}
	for _, bad := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6 7 8 9"} {
		if _, err := parseBusy(bad); err == nil {
			t.Errorf("parseBusy(%q) found a time", bad)
		}
	}
}

func shell(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(Spec{Path: "/bin/sh", Args: []string{"-c", script}, Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestProcessAndItsChildren(t *testing.T) {
	t.Parallel()
	p := shell(t, "trap 'kill $child; exit' TERM; sleep 60 & child=$!; echo up; wait")
	err := p.Await(t.Context(), 5*time.Second, func(context.Context) error {
		if p.Log() != "up" || len(p.Pids()) != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	pids := p.Pids()
	if _, err := CPU(pids); err != nil {
		t.Error(err)
	}
	if err := ResetPeak(pids); err != nil {
		t.Error(err)
	}
	peak, err := Peak(pids)
	if err != nil || peak < 100<<10 {
		t.Errorf("peak %d, %v", peak, err)
	}
	now, err := Resident(pids)
	if err != nil || now < 100<<10 {
		t.Errorf("resident %d, %v", now, err)
	}
	gone := append(pids, 1<<22+1) // above the largest pid there can be
	if _, err := Peak(gone); err != nil {
		t.Errorf("with a child that has ended: %v", err)
	}
	if err := ResetPeak(gone); err != nil {
		t.Errorf("with a child that has ended: %v", err)
	}
	if took := p.Stop(); took > 5*time.Second {
		t.Errorf("stopping took %s", took)
	}
	p.Stop() // again is harmless
	if _, err := CPU(pids); err == nil {
		t.Error("a process that has ended has a CPU time")
	}
}

func TestAwaitTellsOfTheEnd(t *testing.T) {
	t.Parallel()
	p := shell(t, "echo no such port >&2; exit 3")
	err := p.Await(t.Context(), 5*time.Second, func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no such port") {
		t.Errorf("Await: %v", err)
	}
}

func TestStartOfNothing(t *testing.T) {
	t.Parallel()
	if _, err := Start(Spec{Path: "/no/such/program", Log: filepath.Join(t.TempDir(), "log")}); err == nil {
		t.Error("started a program that is not there")
	}
}

func TestStrangers(t *testing.T) {
	t.Parallel()
	c, err := StartClock()
	if err != nil {
		t.Fatal(err)
	}
	n, err := c.Strangers(nil)
	if err != nil || n < 0 {
		t.Errorf("strangers %f, %v", n, err)
	}
}
