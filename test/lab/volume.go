package lab

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// VolumeOptions say what file system a volume is.
type VolumeOptions struct {
	Kind    string // ext4, ext4-casefold, xfs, vfat or tmpfs
	Size    int64  // bytes; xfs wants 300 MiB at least
	Options string // for mount, separated by commas: "commit=1"
}

// A Volume is a file system of a test's own: on a loop device over a file, or in memory. One goroutine at a time may use it.
type Volume struct {
	Dir string // where it is mounted

	image   string
	options VolumeOptions
	mounted bool
}

// NewVolume makes a file system and mounts it until the test is over.
func NewVolume(t testing.TB, o VolumeOptions) *Volume {
	t.Helper()
	dir := Dir(t)
	v := &Volume{Dir: filepath.Join(dir, "mnt"), image: filepath.Join(dir, "image"), options: o}
	if err := os.Mkdir(v.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if o.Kind != "tmpfs" {
		v.format(t)
	}
	v.mount(t)
	t.Cleanup(func() { v.Unmount(t) })
	return v
}

func (v *Volume) format(t testing.TB) {
	t.Helper()
	err := os.WriteFile(v.image, nil, 0o600)
	err = errors.Join(err, os.Truncate(v.image, v.options.Size))
	if err != nil {
		t.Fatal(err)
	}
	kind, args := v.options.Kind, []string{"-q"}
	switch kind {
	case "ext4-casefold":
		kind, args = "ext4", []string{"-q", "-O", "casefold", "-E", "encoding=utf8"}
	case "vfat":
		args = nil
	}
	if _, err := Run(t.Context(), exec.Command(Tool(t, "mkfs."+kind), append(args, v.image)...)); err != nil {
		t.Fatal(err)
	}
}

func (v *Volume) mount(t testing.TB) {
	t.Helper()
	kind, what, options := v.options.Kind, v.image, []string{"loop"}
	switch kind {
	case "ext4-casefold":
		kind = "ext4"
	case "tmpfs":
		what, options = "tmpfs", []string{"mode=755,size=" + strconv.FormatInt(v.options.Size, 10)}
	}
	if v.options.Options != "" {
		options = append(options, v.options.Options)
	}
	// mount(8) finds a loop device and has it freed with the last user of the file system.
	cmd := exec.Command("mount", "-t", kind, "-o", strings.Join(options, ","), what, v.Dir)
	if _, err := Run(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	v.mounted = true
}

// PowerOff cuts the power: from now on nothing reaches the device, and what was not flushed before never will. Whoever
// has files open gets errors (FS_IOC_SHUTDOWN, without flushing the log). Cut is what brings the file system back.
func (v *Volume) PowerOff(t testing.TB) {
	t.Helper()
	f, err := os.Open(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const shutdown, noLogFlush = 0x8004587D, 2
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		t.Fatalf("cut the power of %s: %v", v.Dir, err)
	}
}

// Cut cuts the power, unless PowerOff did, and mounts again. No process may have a file of it open.
func (v *Volume) Cut(t testing.TB) {
	t.Helper()
	if _, err := os.ReadDir(v.Dir); !errors.Is(err, unix.EIO) {
		v.PowerOff(t)
	}
	v.Unmount(t)
	v.mount(t)
}

// Remount changes options of the mounted file system: "ro".
func (v *Volume) Remount(t testing.TB, options string) {
	t.Helper()
	if _, err := Run(t.Context(), exec.Command("mount", "-o", "remount,"+options, v.Dir)); err != nil {
		t.Fatal(err)
	}
}

// Used is how many bytes of the file system are taken, its own tables included.
func (v *Volume) Used(t testing.TB) int64 {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(v.Dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Blocks-s.Bfree) * s.Bsize
}

// Unmount takes it away. It may be called again.
func (v *Volume) Unmount(t testing.TB) {
	t.Helper()
	if !v.mounted {
		return
	}
	if err := unix.Unmount(v.Dir, 0); err != nil {
		t.Errorf("unmount %s: %v", v.Dir, err)
		// So that the loop device goes with its last user, and no later test meets it.
		_ = unix.Unmount(v.Dir, unix.MNT_DETACH)
	}
	v.mounted = false
}
