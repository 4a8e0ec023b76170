package crash_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cistern/test/lab"
)

// bootFile is how the kernel names its boot. After a power cut it would be another one; the kernel of a test goes on.
const bootFile = "/proc/sys/kernel/random/boot_id"

// boots covers bootFile for all processes of the lab. Several drivers share it, each with a boot of its own: it is set
// for as long as a daemon starts.
type boots struct {
	mu    sync.Mutex
	cover string // empty: the true one stays
}

// newBoots covers the file until the test is over.
func newBoots(t *testing.T) *boots {
	t.Helper()
	b := &boots{cover: filepath.Join(lab.Dir(t), "boot_id")}
	lab.Write(t, b.cover, "none\n")
	if err := unix.Mount(b.cover, bootFile, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("cover %s: %v", bootFile, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bootFile, 0); err != nil {
			t.Errorf("uncover %s: %v", bootFile, err)
		}
	})
	return b
}

// set makes id the boot until unlock is called; others wait for that.
func (b *boots) set(t *testing.T, id string) (unlock func()) {
	t.Helper()
	if b == nil {
		return func() {}
	}
	b.mu.Lock()
	if err := os.WriteFile(b.cover, []byte(id+"\n"), 0o644); err != nil {
		b.mu.Unlock()
		t.Fatal(err)
	}
	return b.mu.Unlock
}

func bootID(rng *rand.Rand) string {
	return fmt.Sprintf("%08x-0000-4000-8000-%012x", rng.Uint32(), rng.Uint64()>>16)
}
