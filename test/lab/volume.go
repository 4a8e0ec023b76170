package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// VolumeOptions say what file system a volume is.
type VolumeOptions struct {
	// Kind is ext4, xfs, btrfs, tmpfs, vfat, ext4-casefold (the folder is made case-insensitive), or exfat, which is served
	// by a program (FUSE): a file system without sparse files, case and modes, also where the kernel has no vfat.
	Kind    string
	Size    int64  // bytes; xfs wants 300 MiB at least, btrfs 110
	Options string // for mount, separated by commas: "commit=1"
	// Within is the folder for the file under the loop device; empty: a new one. A small file system there makes a device
	// that is larger than what it can hold: it fails to write.
	Within string
}

// A Volume is a file system of a test's own: on a loop device over a file, or in memory. One goroutine at a time may use it.
type Volume struct {
	Dir   string // where it is mounted
	Image string // the file under the loop device

	options VolumeOptions
	device  string  // the loop device where a program serves the file system
	below   *Volume // what holds Image, if the power is cut there
	mounted bool
}

// NewVolume makes a file system and mounts it until the test is over. It skips the test where the kernel has no such
// file system (see Mountable).
func NewVolume(t testing.TB, o VolumeOptions) *Volume {
	t.Helper()
	if !Mountable(o.Kind) {
		t.Skipf("NOT TESTED: this kernel has no %s", o.Kind)
	}
	dir := Dir(t)
	var below *Volume
	if o.Kind == "btrfs" {
		below = NewVolume(t, VolumeOptions{Kind: "ext4", Size: o.Size + o.Size/8 + 64<<20, Options: "commit=1000"})
		o.Within = below.Dir
	}
	if o.Within == "" {
		o.Within = dir
	}
	v := &Volume{Dir: filepath.Join(dir, "mnt"), Image: filepath.Join(o.Within, "image"), options: o, below: below}
	if err := os.Mkdir(v.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if o.Kind != "tmpfs" {
		v.format(t)
	}
	v.mount(t)
	t.Cleanup(func() { v.Unmount(t) })
	if o.Kind == "ext4-casefold" {
		v.must(t, "chattr", "+F", v.Dir)
	}
	return v
}

// Mountable tells whether the kernel has a kind of file system. All are in most distributions' kernels; small ones, as in
// virtual machines made for one purpose, may lack vfat, btrfs and case folding.
func Mountable(kind string) bool {
	switch kind {
	case "ext4-casefold":
		_, err := os.Stat("/sys/fs/ext4/features/casefold")
		return err == nil
	case "vfat", "btrfs":
		// A module that is not loaded is not in the list: mount loads it.
		if exec.Command("modprobe", "-q", kind).Run() == nil {
			return true
		}
		list, err := os.ReadFile("/proc/filesystems")
		return err == nil && strings.Contains(string(list), "\t"+kind+"\n")
	default:
		return true
	}
}

func (v *Volume) must(t testing.TB, name string, args ...string) string {
	t.Helper()
	// Not the test's own context: a volume is also taken away when that has ended.
	out, err := Run(context.Background(), exec.Command(Tool(t, name), args...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (v *Volume) format(t testing.TB) {
	t.Helper()
	err := os.WriteFile(v.Image, nil, 0o600)
	err = errors.Join(err, os.Truncate(v.Image, v.options.Size))
	if err != nil {
		t.Fatal(err)
	}
	switch kind := v.options.Kind; kind {
	case "ext4":
		// All tables are written now: a mounted volume then grows by nothing but what a test puts there.
		v.must(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", v.Image)
	case "ext4-casefold":
		v.must(t, "mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8", v.Image)
	case "xfs":
		v.must(t, "mkfs.xfs", "-q", v.Image)
	case "btrfs":
		v.must(t, "mkfs.btrfs", "-q", v.Image)
		v.must(t, "sync", v.Image) // else the first cut takes the file system itself
	default:
		v.must(t, "mkfs."+kind, v.Image)
	}
}

func (v *Volume) mount(t testing.TB) {
	t.Helper()
	var options []string
	if v.options.Options != "" {
		options = append(options, v.options.Options)
	}
	switch kind := v.options.Kind; kind {
	case "exfat":
		v.device = v.must(t, "losetup", "--find", "--show", v.Image)
		v.must(t, "mount.exfat-fuse", "-o", strings.Join(append(options, "noatime"), ","), v.device, v.Dir)
	case "tmpfs":
		options = append([]string{"mode=755", "size=" + strconv.FormatInt(v.options.Size, 10)}, options...)
		v.must(t, "mount", "-t", kind, "-o", strings.Join(options, ","), kind, v.Dir)
	default:
		kind = strings.TrimSuffix(kind, "-casefold")
		// mount(8) finds a loop device and has it freed with the last user of the file system.
		v.must(t, "mount", "-t", kind, "-o", strings.Join(append(options, "loop"), ","), v.Image, v.Dir)
	}
	v.mounted = true
}

// Kind is the kind of file system that it is.
func (v *Volume) Kind() string { return v.options.Kind }

// PowerOff cuts the power: from now on nothing reaches the device, and what was not flushed before never will. Whoever
// has files open gets errors (FS_IOC_SHUTDOWN, without flushing the log). btrfs cannot do that: there it is the file system
// that holds its device which loses what was not flushed, as a disk loses its cache. Cut is what brings the file system back.
func (v *Volume) PowerOff(t testing.TB) {
	t.Helper()
	if v.below != nil {
		v.below.PowerOff(t)
		return
	}
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
	dir := v.Dir
	if v.below != nil {
		dir = v.below.Dir
	}
	if _, err := os.ReadDir(dir); !errors.Is(err, unix.EIO) {
		v.PowerOff(t)
	}
	v.Unmount(t)
	if v.below != nil {
		v.below.Cut(t)
	}
	v.mount(t)
}

// Fail makes a mounted ext4 meet an error, as a bad disk does. With the option errors=remount-ro it is read-only from then
// on, whoever has files open for writing, until Mend.
func (v *Volume) Fail(t testing.TB) {
	t.Helper()
	device := v.must(t, "findmnt", "--noheadings", "--output", "SOURCE", v.Dir)
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(device), "trigger_fs_error")
	if err := os.WriteFile(trigger, []byte("the test says so"), 0); err != nil {
		t.Fatal(err)
	}
}

// Mend repairs a file system that has failed, as far as it can be. No process may have a file of it open.
func (v *Volume) Mend(t testing.TB) {
	t.Helper()
	v.Unmount(t)
	var exit *exec.ExitError
	out, err := exec.Command(Tool(t, "e2fsck"), "-f", "-y", v.Image).CombinedOutput()
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) { // 1: errors were corrected
		t.Fatalf("e2fsck: %v: %s", err, out)
	}
	v.mount(t)
}

// Snapshot is another volume, with what the device holds at this moment, as after a power cut: nothing is flushed for it. Within
// must be an xfs, whose files can share their blocks.
func (v *Volume) Snapshot(t testing.TB) *Volume {
	t.Helper()
	s := &Volume{Dir: filepath.Join(Dir(t), "mnt"), Image: v.Image + ".snapshot", options: v.options}
	v.must(t, "cp", "--reflink=always", v.Image, s.Image)
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.mount(t)
	t.Cleanup(func() { s.Unmount(t) })
	return s
}

// Detach takes the file system out of the tree of names. Whoever has files of it open uses them on; it goes with the last one.
func (v *Volume) Detach(t testing.TB) {
	t.Helper()
	v.mounted = false
	if err := unix.Unmount(v.Dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

// Remount changes options of the mounted file system: "ro".
func (v *Volume) Remount(t testing.TB, options string) {
	t.Helper()
	v.must(t, "mount", "-o", "remount,"+options, v.Dir)
}

// Used is how many bytes of the file system are taken, its own tables included. It may be called while others use
// the volume.
func (v *Volume) Used(t testing.TB) int64 {
	t.Helper()
	used, _, err := v.Space()
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// Space is how many bytes of the file system are taken, its own tables included, and how many anybody may still take.
// It may be called while others use the volume, and by any goroutine.
func (v *Volume) Space() (used, free int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(v.Dir, &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Blocks-s.Bfree) * s.Bsize, int64(s.Bavail) * s.Bsize, nil
}

// Unmount takes it away. It may be called again. A process that was just ended may hold files for some more milliseconds.
func (v *Volume) Unmount(t testing.TB) {
	t.Helper()
	if !v.mounted {
		return
	}
	v.mounted = false
	for deadline := time.After(5 * time.Second); ; {
		err := unix.Unmount(v.Dir, 0)
		if err == nil {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
			if errors.Is(err, unix.EBUSY) {
				continue
			}
		case <-deadline:
		}
		t.Errorf("unmount %s: %v", v.Dir, err)
		// So that the loop device goes with its last user, and no later test meets it.
		_ = unix.Unmount(v.Dir, unix.MNT_DETACH)
		break
	}
	if v.device != "" {
		v.must(t, "losetup", "--detach", v.device)
		Eventually(t, 5*time.Second, nil, v.released)
		v.device = ""
	}
}

// released tells whether the program that served the file system has let its device go.
func (v *Volume) released() error {
	backing := filepath.Join("/sys/block", filepath.Base(v.device), "loop/backing_file")
	if path, err := os.ReadFile(backing); err == nil && strings.TrimSpace(string(path)) == v.Image {
		return fmt.Errorf("%s is still in use", v.device)
	}
	return nil
}
