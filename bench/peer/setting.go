package peer

import (
	"context"
	"path/filepath"

	"cistern/bench/disk"
)

// Setting is how a caching peer is started. The zero value is what most scenarios
// have: a fresh cache of 20 GiB in the fleet's folder.
type Setting struct {
	// Label is the target's name in the report; "" = the peer's.
	Label string
	// Cache is its cache directory, made if it is not there; "" = a fresh one.
	Cache string
	// Limit is its size in bytes; 0 = 20 GiB. The floor has none.
	Limit int64
	// Wrapper is a program with its arguments that the peer is started through: a
	// tracer that execs it, so that the process is the peer's own.
	Wrapper []string
}

const defaultLimit = 20 << 30

func (s Setting) label(name string) string {
	if s.Label != "" {
		return s.Label
	}
	return name
}

func (s Setting) limit() int64 {
	if s.Limit != 0 {
		return s.Limit
	}
	return defaultLimit
}

// Volume makes a file system of its own for what is measured, which goes with its
// Close or the fleet's. disk.ErrNoVolume where that cannot be.
func (f *Fleet) Volume(ctx context.Context, name string, s disk.Shape) (*disk.Volume, error) {
	dir, err := f.folder(name)
	if err != nil {
		return nil, err
	}
	v, err := disk.NewVolume(ctx, filepath.Join(dir, "volume"), s)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.volumes[v] = true
	return v, nil
}

// Discard unmounts and removes a volume, on which nothing may run any more.
func (f *Fleet) Discard(v *disk.Volume) error {
	f.mu.Lock()
	delete(f.volumes, v)
	f.mu.Unlock()
	return v.Close()
}
