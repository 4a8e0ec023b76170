package disk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cistern/test/lab"
)

// refused starts a daemon that must not run: it ends with code 2, at once, and says all of the words.
func refused(t *testing.T, s settings, words ...string) {
	t.Helper()
	r := prepare(t, s)
	began := time.Now()
	c := lab.LaunchCistern(t, r.options(s))
	select {
	case <-c.Exited():
	case <-time.After(20 * time.Second):
		t.Fatal("it runs")
	}
	// A second is what it may wait for another process; the rest is for a busy machine to start a program.
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	if code := c.ExitCode(); code != 2 {
		t.Errorf("exit code %d", code)
	}
	for _, w := range words {
		if !strings.Contains(c.Output(), w) {
			t.Errorf("%q is not in what it says: %s", w, c.Output())
		}
	}
}

// TestSecondDaemon is FAULTS row 39: another daemon on the same directory is refused with the process that has it, and the first
// one goes on; also where it was given the directory by another name.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	r := start(t, settings{})
	b := r.blob(300_000)
	r.recorded(b)
	link := filepath.Join(lab.Dir(t), "link")
	if err := os.Symlink(r.dir, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{r.dir, link} {
		refused(t, settings{dir: dir, origin: r.origin}, "in use", fmt.Sprintf("process %d", r.pid()), "stop that process")
	}
	r.hits(b)
	r.recorded(r.blob(400_000))
	// A process that was killed holds nothing.
	r.daemon.Kill()
	r.restart()
	r.hits(b)
}

// TestIndexHeld is FAULTS row 36 for an index that another process has open: that is said, and not waited for.
func TestIndexHeld(t *testing.T) {
	t.Parallel()
	r := start(t, settings{})
	b := r.blob(300_000)
	r.recorded(b)
	r.stop()
	f, err := os.Open(r.in("index.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	refused(t, settings{dir: r.dir, origin: r.origin}, "index.db", "another process")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.off.Store(true)
	r.hits(b)
}

// TestVolumeGoes is FAULTS row 39 for a file system that is taken from under the daemon: what it has open it uses on, and nothing
// is made where the file system was, in the folder below.
func TestVolumeGoes(t *testing.T) {
	t.Parallel()
	v := lab.NewVolume(t, lab.VolumeOptions{Kind: "ext4", Size: 64 * mib})
	r := start(t, settings{dir: filepath.Join(v.Dir, "cache")})
	b := r.blob(300_000)
	r.recorded(b)
	v.Detach(t)
	r.hits(b)
	r.pull(r.blob(2*mib), r.blob(900), r.image("one", r.blob(1000)))
	r.keeps(r.blob(mib))
	if below, err := os.ReadDir(v.Dir); err != nil || len(below) > 0 {
		t.Errorf("%v was made where the file system was (%v)", below, err)
	}
}
