package crowd

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cistern/bench/disk"
)

// Member is one blob of a crowd.
type Member struct {
	Sum  [sha256.Size]byte
	Size int64
}

// Digest is "sha256:" and the hex digits.
func (m Member) Digest() string { return "sha256:" + hex.EncodeToString(m.Sum[:]) }

// File is where the blob lies below a cache directory.
func (m Member) File() string {
	name := hex.EncodeToString(m.Sum[:])
	return filepath.Join("blobs", "sha256", name[:2], name)
}

// Written is what writing a crowd came to.
type Written struct {
	Blobs            int
	Bytes, Allocated int64         // of content; of the blobs' files on the disk, in blocks of 4 KiB
	Took             time.Duration // flushing to the disk included
}

// contentMode marks public content: obtained without credentials (decision 8 of
// the project). Linux ignores the sticky bit of files.
const contentMode = fs.ModeSticky | 0o600

const (
	baseSize  = 2 << 20 // of the random bytes that all blobs are cut from
	stampSize = 16
)

// content makes the blobs of one crowd.
type content struct {
	spec Spec
	base []byte
}

func newContent(s Spec) *content {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], s.Seed)
	base := make([]byte, baseSize)
	// Read of a ChaCha8 never fails.
	_, _ = rand.NewChaCha8(key).Read(base)
	return &content{spec: s, base: base}
}

// blob returns blob i in buf, which it grows: a piece of the random bytes with a
// stamp of its own at the start, so that no two are alike.
func (c *content) blob(i int, buf []byte) []byte {
	size := c.spec.Size(i)
	off := (int64(i) * 4099) % (baseSize - size)
	buf = append(buf[:0], c.base[off:off+size]...)
	binary.BigEndian.PutUint64(buf, c.spec.Seed)
	binary.BigEndian.PutUint64(buf[stampSize/2:], uint64(i))
	return buf
}

// Write writes the blobs of a crowd below dir, a cache directory that no daemon
// uses, and flushes them to the disk. It returns them in the order of their
// numbers. progress, when set, is called now and then with how many there are.
func Write(ctx context.Context, dir string, s Spec, progress func(done int)) ([]Member, Written, error) {
	start := time.Now()
	root := filepath.Join(dir, "blobs", "sha256")
	for i := range 256 {
		if err := os.MkdirAll(filepath.Join(root, fmt.Sprintf("%02x", i)), 0o700); err != nil {
			return nil, Written{}, fmt.Errorf("crowd: %w", err)
		}
	}
	members, c := make([]Member, s.Blobs), newContent(s)
	var next, bytes, allocated atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range max(2, runtime.NumCPU()) {
		g.Go(func() error {
			var buf []byte
			for i := int(next.Add(1) - 1); i < s.Blobs && ctx.Err() == nil; i = int(next.Add(1) - 1) {
				buf = c.blob(i, buf)
				m := Member{Sum: sha256.Sum256(buf), Size: int64(len(buf))}
				if err := writeFile(filepath.Join(dir, m.File()), buf); err != nil {
					return fmt.Errorf("crowd: %w", err)
				}
				members[i] = m
				bytes.Add(m.Size)
				allocated.Add((m.Size + 4095) &^ 4095)
				if progress != nil && i%50_000 == 49_999 {
					progress(i + 1)
				}
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, Written{}, err
	}
	// Otherwise the write-back would go on beside what is measured next.
	if err := disk.Flush(dir); err != nil {
		return nil, Written{}, err
	}
	return members, Written{Blobs: s.Blobs, Bytes: bytes.Load(), Allocated: allocated.Load(), Took: time.Since(start)}, nil
}

func writeFile(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, contentMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
