package peer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// FilesHandler is the bare file server: what Go's standard library serves a
// folder with, and nothing else.
func FilesHandler(dir string) http.Handler { return http.FileServer(http.Dir(dir)) }

// FloorHandler is the least that can be called a caching proxy in Go: one lock
// for each path, fetch the whole of it to a file, then http.ServeContent. It
// verifies nothing and follows no challenge; a peer for orientation.
func FloorHandler(dir, upstream string) http.Handler {
	return &floor{dir: dir, upstream: strings.TrimSuffix(upstream, "/"), locks: map[string]*sync.Mutex{}, client: &http.Client{
		Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
	}}
}

type floor struct {
	dir, upstream string
	client        *http.Client

	mu    sync.Mutex
	locks map[string]*sync.Mutex // by path; guarded by mu
}

func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := filepath.Join(f.dir, strings.ReplaceAll(r.URL.Path, "/", "!"))
	file, err := os.Open(name)
	if err != nil {
		f.mu.Lock()
		l := f.locks[name]
		if l == nil {
			l = &sync.Mutex{}
			f.locks[name] = l
		}
		f.mu.Unlock()
		l.Lock()
		if file, err = os.Open(name); err != nil {
			file, err = f.fetch(r.Context(), r.URL.Path, name)
		}
		l.Unlock()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), file)
}

func (f *floor) fetch(ctx context.Context, path, name string) (*os.File, error) {
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, f.upstream+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("upstream: %s", resp.Status)
	}
	tmp, err := os.CreateTemp(f.dir, "fetch-")
	if err != nil {
		return nil, err
	}
	defer tmp.Close()
	if _, err := io.Copy(tmp, resp.Body); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return nil, err
	}
	return os.Open(name)
}

func (f *Fleet) startFloor(ctx context.Context, o *Origin, set Setting) (*Target, error) {
	dir, err := set.Cache, error(nil)
	if dir == "" {
		dir, err = f.folder("floor-cache")
	} else {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return nil, err
	}
	t, err := f.startSelf(ctx, Floor, "floor", "--dir", dir, "--upstream", o.Registry)
	if t != nil {
		t.Cache = dir
	}
	return t, err
}
