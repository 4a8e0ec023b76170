package peer

import (
	"context"
	"fmt"
	"path/filepath"

	"cistern/bench/proc"
)

// startCistern starts the daemon with the registry as its only configured and
// default upstream, so that names need neither a prefix nor ns.
func (f *Fleet) startCistern(ctx context.Context, name string, o *Origin, set Setting) (*Target, error) {
	dir, err := f.folder(name)
	if err != nil {
		return nil, err
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	level := "warn" // the access log is written at info
	if name == CisternLog {
		level = "info"
	}
	cache := set.Cache
	if cache == "" {
		cache = filepath.Join(dir, "cache")
	}
	spec := proc.Spec{
		Path: f.opts.Cistern,
		Args: []string{
			"serve", "--listen", addr, "--admin-listen", admin,
			"--cache-dir", cache, "--cache-size", fmt.Sprintf("%dB", set.limit()),
			"--upstream", "bench=" + o.Registry, "--default-upstream", "bench", "--log-level", level,
		},
		Log: filepath.Join(dir, "log"),
	}
	if len(set.Wrapper) > 0 {
		spec.Path, spec.Args = set.Wrapper[0], append(append(set.Wrapper[1:len(set.Wrapper):len(set.Wrapper)], spec.Path), spec.Args...)
	}
	t := &Target{Name: set.label(name), Base: "http://" + addr, Admin: "http://" + admin, Cache: cache, dir: dir}
	return t, f.launch(ctx, t, spec)
}
