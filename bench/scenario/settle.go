package scenario

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"cistern/bench/disk"
	"cistern/bench/peer"
)

// flush writes back what a target has written, so that the next measurement does
// not share the disk with it.
func flush(t *peer.Target) error {
	if t.Cache == "" || !t.Local() {
		return nil
	}
	return disk.Flush(t.Cache)
}

// flushAll does so for all targets: caches may lie on several file systems.
func (b *Bench) flushAll(ts []*peer.Target) error {
	var errs []error
	for _, t := range ts {
		errs = append(errs, flush(t))
	}
	return errors.Join(errs...)
}

// settleTime bounds how long a checkpoint is waited for: a thousand fsyncs on a slow
// disk take their time.
const settleTime = 60 * time.Second

// settled waits until a target has put on the disk what it was given: for Cistern,
// until no blob is left in fills/ and then for one checkpoint more; for others, as
// long as one takes. Then it flushes the rest. What has no cache here is settled.
func settled(ctx context.Context, t *peer.Target) error {
	if t.Cache == "" {
		return nil
	}
	if t.Admin != "" {
		for start := time.Now(); ; {
			n, err := regularFiles(filepath.Join(t.Cache, "fills"))
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			if time.Since(start) > settleTime {
				return fmt.Errorf("%s: %d blobs are in fills/ after %s", t.Name, n, settleTime)
			}
			if err := sleep(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return errors.Join(sleep(ctx, settle), flush(t))
}

func regularFiles(dir string) (n int, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	return n, err
}
