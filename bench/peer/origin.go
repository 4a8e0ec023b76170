package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/proc"
)

// Variants of the registry.
const (
	Plain    = "plain"    // open, blobs served by itself
	Token    = "token"    // bearer tokens
	Redirect = "redirect" // bearer tokens, and blobs redirected: as the large registries are
	Yielding = "yielding" // plain, and gets the processor time that nobody else wants: an upstream is on another machine
)

// Origin is a synthetic registry in a process of its own.
type Origin struct {
	origin.Control
	// Registry is its base URL.
	Registry string
	// Variant is one of the names above.
	Variant string
	// Pids are its processes.
	Pids []int
}

// Addresses is what the upstream command prints, as one line of JSON.
type Addresses struct {
	Registry string `json:"registry"`
	CDN      string `json:"cdn"`
	Control  string `json:"control"`
}

// Origin returns the registry of a variant, which is started with its first use
// and runs until Close.
func (f *Fleet) Origin(ctx context.Context, variant string) (*Origin, error) {
	if f.opts.Registry != nil {
		return f.opts.Registry, nil
	}
	f.mu.Lock()
	o := f.origins[variant]
	f.mu.Unlock()
	if o != nil {
		return o, nil
	}
	dir, err := f.folder("upstream")
	if err != nil {
		return nil, err
	}
	args := []string{"upstream", "--digest-cache", f.opts.DigestCache}
	if variant == Token || variant == Redirect {
		args = append(args, "--auth")
	}
	if variant == Redirect {
		args = append(args, "--redirect")
	}
	out := filepath.Join(dir, "addresses")
	file, err := os.Create(out)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	p, err := f.run(proc.Spec{Path: f.opts.Self, Args: args, Log: filepath.Join(dir, "log"), Stdout: file, Idle: variant == Yielding})
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	var a Addresses
	err = p.Await(ctx, 10*time.Second, func(context.Context) error {
		data, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		return json.Unmarshal(data, &a)
	})
	if err != nil {
		f.end(p)
		return nil, fmt.Errorf("upstream: %w", err)
	}
	o = &Origin{Control: origin.Control{Base: a.Control}, Registry: a.Registry, Variant: variant, Pids: []int{p.Pid()}}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.origins[variant] = o
	return o, file.Close()
}

// Materialise writes an image's manifest and blobs to the static peers' folder,
// under the paths that a registry has for them.
func (f *Fleet) Materialise(ctx context.Context, o *Origin, im origin.Image) error {
	root := filepath.Join(f.Files(), "v2", filepath.FromSlash(im.Repository))
	for _, d := range []string{"manifests", "blobs"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return fmt.Errorf("static files: %w", err)
		}
	}
	for _, ref := range []string{im.Tag, im.Digest} {
		if err := os.WriteFile(filepath.Join(root, "manifests", ref), im.Manifest, 0o644); err != nil {
			return fmt.Errorf("static files: %w", err)
		}
	}
	// The control address has the same paths and no link in front of them.
	c, err := load.New(load.Options{Base: o.Control.Base})
	if err != nil {
		return err
	}
	defer c.Close()
	for _, l := range im.Layers {
		if err := copyBlob(ctx, c, "/v2/"+im.Repository+"/blobs/"+l.Digest, filepath.Join(root, "blobs", l.Digest)); err != nil {
			return fmt.Errorf("static files: %w", err)
		}
	}
	return nil
}

func copyBlob(ctx context.Context, c *load.Client, path, file string) (err error) {
	resp, err := c.Do(ctx, load.Request{Path: path})
	if err != nil {
		return err
	}
	w, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := w.Close(); err == nil {
			err = cerr
		}
	}()
	_, err = c.Drain(ctx, resp, load.Sink{To: io.Writer(w)})
	return err
}
