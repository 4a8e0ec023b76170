package lab_test

import (
	"os"
	"path/filepath"
	"testing"

	"cistern/test/lab"
)

// TestVolumes shows what each kind of file system is for: what a cut of the power loses, and what names and holes are.
func TestVolumes(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, c := range []struct {
		kind         string
		size         int64
		folds, holes bool // "A" and "a" are one name; a hole takes no space
		cut          bool // the power can be cut
	}{
		{"ext4", 64 * mib, false, true, true},
		{"xfs", 300 * mib, false, true, true},
		{"btrfs", 128 * mib, false, true, true},
		{"tmpfs", 64 * mib, false, true, false},
		{"ext4-casefold", 64 * mib, true, true, true},
		{"vfat", 64 * mib, true, false, false},
		{"exfat", 64 * mib, true, false, false},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVolume(t, lab.VolumeOptions{Kind: c.kind, Size: c.size})
			lab.Write(t, filepath.Join(v.Dir, "Name"), "text")
			if _, err := os.Stat(filepath.Join(v.Dir, "nAME")); (err == nil) != c.folds {
				t.Errorf("another case: %v", err)
			}
			before := v.Used(t)
			if err := os.Truncate(filepath.Join(v.Dir, "Name"), 8*mib); err != nil {
				t.Fatal(err)
			}
			if grown := v.Used(t) - before; (grown < mib) != c.holes {
				t.Errorf("a hole takes %d bytes", grown)
			}
			if !c.cut {
				return
			}
			v.Cut(t)
			if b, err := os.ReadFile(filepath.Join(v.Dir, "Name")); err == nil && len(b) > 0 {
				t.Errorf("%d bytes are there that nobody has flushed", len(b))
			}
			v.Remount(t, "ro")
			if err := os.Mkdir(filepath.Join(v.Dir, "folder"), 0o755); err == nil {
				t.Error("read-only, and yet it takes a folder")
			}
		})
	}
}
