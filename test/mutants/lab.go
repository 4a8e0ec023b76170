package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A mutant is the program without one of its protections.
type mutant struct {
	name     string // what is taken out
	file     string // from the root of the tree
	old, new string // old is in the file once
	pkg      string // the folder whose tests are to notice
	run      string // which of them, for -run
}

// real tells whether it is a test of the real program that is to notice.
func (m mutant) real() bool { return strings.HasPrefix(m.pkg, "test/") }

// protections are all mutants.
func protections() []mutant {
	return slices.Concat(ofSpace(), ofFiles(), ofDirectories(), ofCheckpoints(), ofBytes(), ofFaults(), ofIndex(), ofDaemon(), ofDisks(), ofFills(), ofScrub())
}

// A lab builds and runs mutants, one at a time.
type lab struct {
	root, dir string
	sound     map[string]error // by package and pattern: the tests without a mutant
}

func newLab(root, dir string) *lab { return &lab{root: root, dir: dir, sound: map[string]error{}} }

// try tells what came of a mutant, and whether a test noticed it. The same tests must be green without it.
func (l *lab) try(m mutant) (verdict string, noticed bool) {
	overlay, err := l.overlay(m)
	if err != nil {
		return "STALE: " + err.Error(), false
	}
	key := m.pkg + " " + m.run
	if _, known := l.sound[key]; !known {
		_, l.sound[key] = l.test(m, "")
	}
	if err := l.sound[key]; err != nil {
		return "NOT SOUND without it: " + err.Error(), false
	}
	out, err := l.test(m, overlay)
	switch {
	case err == nil:
		return "NOT NOTICED by " + m.run, false
	case errors.Is(err, errBuild):
		return "DOES NOT COMPILE: " + err.Error(), false
	}
	return red(m, out), true
}

// overlay writes the changed file, and the list that shows it to the compiler.
func (l *lab) overlay(m mutant) (string, error) {
	path, err := filepath.Abs(filepath.Join(l.root, m.file))
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return "", fmt.Errorf("%q is there %d times", m.old, n)
	}
	changed := filepath.Join(l.dir, filepath.Base(m.file))
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(l.dir, "overlay.json")
	return overlay, errors.Join(
		os.WriteFile(changed, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600),
		os.WriteFile(overlay, list, 0o600))
}

// errBuild says that there is nothing to run.
var errBuild = errors.New("no program")

// test builds and runs a mutant's tests, with the file exchanged if overlay is not "".
func (l *lab) test(m mutant, overlay string) (out string, err error) {
	binary := filepath.Join(l.dir, "tests")
	build := []string{"test", "-c", "-vet=off", "-o", binary}
	if m.real() {
		program := filepath.Join(l.dir, "cistern")
		if err := l.build(".", "build", "-overlay", overlay, "-o", program, "./cmd/cistern"); err != nil {
			return "", err
		}
		err = l.build("test", append(build, "./"+strings.TrimPrefix(m.pkg, "test/"))...)
	} else {
		err = l.build(".", append(build, "-overlay", overlay, "./"+m.pkg)...)
	}
	if err != nil {
		return "", err
	}
	cmd := exec.Command(binary, "-test.count=1", "-test.timeout=200s", "-test.run", m.run)
	cmd.Dir = filepath.Join(l.root, m.pkg)
	// What fails here is nobody's find: rapid is not to write it down. A protection that many histories are needed for is not
	// what this is about.
	cmd.Env = append(os.Environ(), "CISTERN_BIN="+filepath.Join(l.dir, "cistern"), "TMPDIR="+l.dir, "CISTERN_LAB_LOGS="+l.dir, "RAPID_NOFAILFILE=true", "RAPID_CHECKS=25")
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// build runs go.
func (l *lab) build(module string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join(l.root, module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %w: %s", errBuild, err, text)
	}
	return nil
}

// failed finds the tests that say so.
var failed = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)

// red says which test noticed.
func red(m mutant, out string) string {
	var tests []string
	for _, match := range failed.FindAllStringSubmatch(out, -1) {
		tests = append(tests, match[1])
	}
	switch {
	case strings.Contains(out, "panic: test timed out"):
		return m.run + " hangs"
	case len(tests) == 0:
		return m.run + " dies"
	}
	slices.Sort(tests)
	return strings.Join(slices.Compact(tests), ", ")
}
