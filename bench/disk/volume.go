package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// ErrNoVolume says that a file system cannot be made here: not root, no mkfs, or
// no loop devices.
var ErrNoVolume = errors.New("no file system of its own can be made here")

// Volume is an ext4 in a sparse file, mounted until Close. ext4 with its journal
// and default options is what most machines run; an odd file system below (an
// ext4 without journal takes twenty times as long for a small file) shows less.
type Volume struct {
	// Dir is where it is mounted.
	Dir string
	// Base is what an empty one has in use, in bytes.
	Base  int64
	image string
}

// Shape is what file system to make.
type Shape struct {
	// Size in bytes, and how many there are for each inode; 0 = mkfs's default (16384).
	Size       int64
	InodeBytes int
	// Mount are options for mount, with commas; "" = the defaults.
	Mount string
}

// NewVolume makes and mounts a file system, at dir with an ending of its own.
func NewVolume(ctx context.Context, dir string, s Shape) (*Volume, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: not root", ErrNoVolume)
	}
	v := &Volume{Dir: dir + ".mnt", image: dir + ".img"}
	f, err := os.Create(v.image)
	if err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	if err := errors.Join(f.Truncate(s.Size), f.Close()); err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	// Tables made at once: otherwise the kernel would write them beside the load.
	format := []string{"-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"}
	if s.InodeBytes > 0 {
		format = append(format, "-i", strconv.Itoa(s.InodeBytes))
	}
	err = errors.Join(tool(ctx, "mkfs.ext4", append(format, v.image)...), os.MkdirAll(v.Dir, 0o755))
	if err == nil {
		err = tool(ctx, "mount", "-o", strings.Trim("loop,"+s.Mount, ","), v.image, v.Dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrNoVolume, err), os.RemoveAll(v.Dir), os.Remove(v.image))
	}
	v.Base, err = Used(v.Dir)
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

// Close unmounts the volume and removes it with all that is on it. Its processes
// must have ended; one that has not makes the mount go when it does.
func (v *Volume) Close() error {
	ctx := context.Background() // also when the run was broken off
	if err := tool(ctx, "umount", v.Dir); err != nil {
		if lerr := tool(ctx, "umount", "--lazy", v.Dir); lerr != nil {
			return errors.Join(err, lerr)
		}
	}
	return errors.Join(os.Remove(v.Dir), os.Remove(v.image))
}

func tool(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
