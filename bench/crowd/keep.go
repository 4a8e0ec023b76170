package crowd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Home is a folder with a crowd: its cache directory, and beside it the list of
// what is in it, so that it can be used again.
type Home struct{ Dir string }

// Cache is the cache directory.
func (h Home) Cache() string { return filepath.Join(h.Dir, "cache") }

func (h Home) list() string { return filepath.Join(h.Dir, "list") }

// header begins the list: its format and which crowd it is.
func (s Spec) header() string {
	return fmt.Sprintf("cistern-bench crowd 1: seed %d, %d blobs, probes %t\n", s.Seed, s.Blobs, s.Probes)
}

// Populate writes the crowd, unless the home has it already: then Written is zero.
// A cache directory without a list, or with one of another crowd, is refused: it
// may be somebody's.
func (h Home) Populate(ctx context.Context, s Spec, progress func(done int)) ([]Member, Written, error) {
	members, err := h.load(s)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return members, Written{}, err
	}
	if _, err := os.Lstat(h.Cache()); err == nil {
		return nil, Written{}, fmt.Errorf("crowd: %s is there without the list of a crowd beside it: remove it, or name another folder", h.Cache())
	}
	if err := os.MkdirAll(h.Cache(), 0o700); err != nil {
		return nil, Written{}, fmt.Errorf("crowd: %w", err)
	}
	members, w, err := Write(ctx, h.Cache(), s, progress)
	if err != nil {
		return nil, w, err
	}
	return members, w, h.save(s, members)
}

// Forget removes everything from the cache directory but the blobs, the index
// above all: the next daemon adopts them anew. What daemons have added stays.
func (h Home) Forget() error {
	entries, err := os.ReadDir(h.Cache())
	if err != nil {
		return fmt.Errorf("crowd: %w", err)
	}
	for _, e := range entries {
		if e.Name() == "blobs" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(h.Cache(), e.Name())); err != nil {
			return fmt.Errorf("crowd: %w", err)
		}
	}
	return nil
}

const recordSize = 32 + 8

func (h Home) save(s Spec, members []Member) error {
	f, err := os.Create(h.list())
	if err != nil {
		return fmt.Errorf("crowd: %w", err)
	}
	w := bufio.NewWriter(f)
	_, err = w.WriteString(s.header())
	var rec [recordSize]byte
	for _, m := range members {
		copy(rec[:], m.Sum[:])
		binary.BigEndian.PutUint64(rec[32:], uint64(m.Size))
		_, werr := w.Write(rec[:])
		err = errors.Join(err, werr)
	}
	if err := errors.Join(err, w.Flush(), f.Close()); err != nil {
		return fmt.Errorf("crowd: %w", err)
	}
	return nil
}

func (h Home) load(s Spec) ([]Member, error) {
	f, err := os.Open(h.list())
	if err != nil {
		return nil, fmt.Errorf("crowd: %w", err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	if line, err := r.ReadString('\n'); err != nil || line != s.header() {
		return nil, fmt.Errorf("crowd: %s holds another one (%q), want %q", h.Dir, line, s.header())
	}
	members := make([]Member, s.Blobs)
	var rec [recordSize]byte
	for i := range members {
		if _, err := io.ReadFull(r, rec[:]); err != nil {
			return nil, fmt.Errorf("crowd: list of %s: %w", h.Dir, err)
		}
		copy(members[i].Sum[:], rec[:32])
		members[i].Size = int64(binary.BigEndian.Uint64(rec[32:]))
	}
	return members, nil
}
