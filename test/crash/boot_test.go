package crash_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// bootFile is how the kernel names its boot. After a power cut it would be another one; the kernel of a test goes on.
const bootFile = "/proc/sys/kernel/random/boot_id"

// oneBoot is held by whoever starts a daemon: there is one bootFile for all processes of the lab.
var oneBoot sync.Mutex

// coverBoot puts a file of ours over bootFile, in the namespace of this test binary, which ends with it.
var coverBoot = sync.OnceValue(func() error {
	f, err := os.CreateTemp("", "boot_id")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name()) // the mount holds it
	return unix.Mount(f.Name(), bootFile, "", unix.MS_BIND, "")
})

// setBoot makes id the kernel's boot until unlock is called; others wait for that.
func setBoot(t *testing.T, id string) (unlock func()) {
	t.Helper()
	oneBoot.Lock()
	err := coverBoot()
	if err == nil {
		err = os.WriteFile(bootFile, []byte(id+"\n"), 0o644)
	}
	if err != nil {
		oneBoot.Unlock()
		t.Fatalf("cover %s: %v", bootFile, err)
	}
	return oneBoot.Unlock
}

func bootID(rng *rand.Rand) string {
	return fmt.Sprintf("%08x-0000-4000-8000-%012x", rng.Uint32(), rng.Uint64()>>16)
}
