package peer

import (
	"context"
	"path/filepath"

	"cistern/bench/proc"
)

// startCistern starts the daemon with the registry as its only configured and
// default upstream, so that names need neither a prefix nor ns.
func (f *Fleet) startCistern(ctx context.Context, name string, o *Origin) (*Target, error) {
	dir, err := f.folder(name)
	if err != nil {
		return nil, err
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	level := "warn" // the access log is written at info
	if name == CisternLog {
		level = "info"
	}
	t := &Target{Name: name, Base: "http://" + addr, dir: dir}
	return t, f.launch(ctx, t, CisternSpec(f.opts.Cistern, dir, addr, o.Registry, level))
}

// CisternSpec is how the daemon is started, for the fleet and the demo alike:
// cache and log in dir, listening on addr.
func CisternSpec(binary, dir, addr, registry, level string) proc.Spec {
	return proc.Spec{
		Path: binary,
		Args: []string{
			"serve", "--listen", addr, "--admin-listen", "127.0.0.1:0",
			"--cache-dir", filepath.Join(dir, "cache"), "--cache-size", "20GiB",
			"--upstream", "bench=" + registry, "--default-upstream", "bench", "--log-level", level,
		},
		Log: filepath.Join(dir, "log"),
	}
}
