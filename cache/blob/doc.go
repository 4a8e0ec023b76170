// Package blob keeps content-addressed files in one cache directory: fills that
// grow, whole blobs, and the account of the space that all of it takes.
//
// It knows no index, no HTTP and no upstream, and it trusts nobody's word
// about content: whether the bytes of a file are those its digest names is for
// the caller to establish before Commit, and to remember.
//
//	cistern.lock               flock, one process per directory
//	VERSION                    layout of this directory; a newer one is refused
//	clean                      there only while no process runs and the last one stopped in order
//	boot                       the kernel's boot id and the device of the last process that settled its fills
//	fills/sha256/ab/<hex>      growing and just-finished files
//	fills/sha256/ab/<hex>.pieces
//	                           what is there of one that is not written in order, or is synced while it grows
//	blobs/sha256/ab/<hex>      whole blobs; the caller has a record of each
//	damaged/sha256-<hex>       the last few that were not what their digest names
//	anything else              small files of others, whole and counted: WriteBeside
//
// A file goes Create, Write or WriteAt ..., Commit (readable at once, from fills/), Sync
// (on stable storage), then the caller's record, then Promote (into blobs/).
// Only Sync waits for the disk. A crash at any point leaves files without a
// record in fills/, never a record without its bytes.
package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// What a caller branches on.
var (
	// ErrDisk says that the disk would not take it: full, failing, read-only,
	// over quota, gone. The bytes in hand can only be streamed.
	ErrDisk = errors.New("the cache directory cannot take it")
	// ErrNoSpace is the ErrDisk that eviction may cure: the cap, min_free, or
	// the file system itself left no room.
	ErrNoSpace = fmt.Errorf("no room: %w", ErrDisk)
	// ErrLocked says that another process has the cache directory.
	ErrLocked = errors.New("the cache directory is in use")
	// ErrVersion says that the directory has a layout this program does not know.
	ErrVersion = errors.New("the cache directory's layout is not known")
	// ErrForeign says that something else lies where a blob should: a folder,
	// a link, a fifo. It is also an fs.ErrNotExist.
	ErrForeign = fmt.Errorf("not a regular file: %w", fs.ErrNotExist)
)

// diskError classes an error of the file system on the way of a write.
func diskError(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrDisk):
		return fmt.Errorf("%s: %w", op, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s: %w (%w)", op, ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w (%w)", op, ErrDisk, err)
}
