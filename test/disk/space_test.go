package disk_test

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
)

// lies is what all files and folders of the cache directory take, and what the index is of that.
func (r *rig) lies() (all, index int64) {
	r.t.Helper()
	err := filepath.WalkDir(r.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		fi, err := e.Info()
		if err != nil {
			return nil
		}
		n := (fi.Size() + 4095) / 4096 * 4096 // a file system may be late with its blocks
		blocks := fi.Sys().(*syscall.Stat_t).Blocks * 512
		switch {
		case path == r.dir:
			return nil
		case strings.HasPrefix(e.Name(), "index.db"): // most of it was never written
			index += blocks
			all += blocks
		default:
			all += max(n, blocks)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all, index
}

// accounts waits until what the daemon says that its directory takes is what it does take: nothing is forgotten, nothing is
// counted that is gone. It counts for the index what its next transaction may add, too: twice the index, 24 MiB at most, and a
// little more than one.
func (r *rig) accounts() {
	r.t.Helper()
	const slack = 256 * kib
	r.until(func() error {
		if n := r.daemon.Metric(r.t, "cistern_cache_reserved_bytes"); n != 0 {
			return fmt.Errorf("%.0f bytes are reserved", n)
		}
		says := int64(r.daemon.Metric(r.t, "cistern_cache_bytes"))
		lies, index := r.lies()
		if more := says - lies; more < -slack || more > min(2*index, 24*mib)+index/512+mib+slack {
			return fmt.Errorf("the daemon counts %d bytes, %d lie there, %d of them the index", says, lies, index)
		}
		return nil
	})
}
