// Package peer starts what the bench measures and what it measures against: the
// synthetic registry in a process of its own, Cistern, a bare http.FileServer, a
// naive caching proxy and nginx. Each gets a folder below one temporary folder
// and a free loopback port. It measures nothing itself.
package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"cistern/bench/disk"
	"cistern/bench/load"
	"cistern/bench/proc"
)

// Names of the peers.
const (
	Direct     = "direct"      // no proxy: clients ask the registry
	Cistern    = "cistern"     // without an access log
	CisternLog = "cistern-log" // with the access log at info
	FileServer = "fileserver"  // http.FileServer on a folder of the same files
	Floor      = "go-floor"    // lock, fetch whole to a file, http.ServeContent
	NginxFiles = "nginx-static"
	NginxCache = "nginx-cache" // proxy_cache with lock
	NginxLog   = "nginx-cache-log"
)

// Target is something that answers /v2.
type Target struct {
	// Name is one of the names above, or what the user called an address of his.
	Name string
	// Base is its URL.
	Base string
	// Pids are its processes; none where it runs elsewhere: then its costs are not
	// measured.
	Pids []int
	// Cache is its cache directory; "" where it has none, or not here.
	Cache string
	// Admin is the base URL of Cistern's admin listener; "" for others.
	Admin string

	proc    *proc.Process
	restart func(context.Context) error // nil: cannot be restarted
	dir     string
}

// Local tells whether the target's processes can be measured.
func (t *Target) Local() bool { return len(t.Pids) > 0 }

// Fleet starts targets. Close ends whatever still runs. Safe for concurrent use.
type Fleet struct {
	opts Options
	dir  string

	mu      sync.Mutex
	running map[*proc.Process]bool // guarded by mu
	volumes map[*disk.Volume]bool  // mounted; guarded by mu
	origins map[string]*Origin     // by variant; guarded by mu
	count   int                    // of folders made; guarded by mu
}

// Options say where the programs are.
type Options struct {
	// Self is the bench's own program, which is the registry, the file server and
	// the floor, too.
	Self string
	// Cistern is the daemon's binary; Nginx that of nginx, "" = not there.
	Cistern, Nginx string
	// DigestCache is passed to the registries.
	DigestCache string
	// Dir is where the temporary folder is made; "" = the system's.
	Dir string
	// External are addresses to measure in place of the fleet's proxies, and
	// Registry the synthetic registry behind them.
	External []Target
	Registry *Origin
}

// NewFleet makes the temporary folder.
func NewFleet(o Options) (*Fleet, error) {
	dir, err := os.MkdirTemp(o.Dir, "cistern-bench-")
	if err != nil {
		return nil, fmt.Errorf("temporary folder: %w", err)
	}
	return &Fleet{opts: o, dir: dir, running: map[*proc.Process]bool{}, volumes: map[*disk.Volume]bool{}, origins: map[string]*Origin{}}, nil
}

// Close ends all processes, proxies before registries, and removes the folder.
func (f *Fleet) Close() error {
	f.mu.Lock()
	var all []*proc.Process
	for p := range f.running {
		all = append(all, p)
	}
	f.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(func() { p.Stop() })
	}
	wg.Wait()
	f.mu.Lock()
	volumes := slices.Collect(maps.Keys(f.volumes))
	f.mu.Unlock()
	var err error
	for _, v := range volumes {
		err = errors.Join(err, f.Discard(v))
	}
	if err != nil {
		return err // a volume is mounted in there
	}
	return os.RemoveAll(f.dir)
}

// Pids are the processes that run now, with their children.
func (f *Fleet) Pids() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	var pids []int
	for p := range f.running {
		pids = append(pids, p.Pids()...)
	}
	return pids
}

// Has tells whether a peer can be started here.
func (f *Fleet) Has(name string) bool {
	for _, t := range f.opts.External {
		if t.Name == name {
			return true
		}
	}
	switch name {
	case Cistern, CisternLog:
		return f.opts.Cistern != ""
	case NginxFiles, NginxCache, NginxLog:
		return f.opts.Nginx != ""
	}
	return len(f.opts.External) == 0 || name == Direct
}

// Start starts a peer with an empty cache in front of a registry.
func (f *Fleet) Start(ctx context.Context, name string, o *Origin) (*Target, error) {
	return f.StartWith(ctx, name, o, Setting{})
}

// StartWith starts a peer in front of a registry, a caching one
// as the setting says.
func (f *Fleet) StartWith(ctx context.Context, name string, o *Origin, set Setting) (*Target, error) {
	for _, t := range f.opts.External {
		if t.Name == name {
			return &t, nil
		}
	}
	var t *Target
	var err error
	switch name {
	case Direct:
		t = &Target{Name: name, Base: o.Registry}
	case Cistern, CisternLog:
		t, err = f.startCistern(ctx, name, o, set)
	case FileServer:
		t, err = f.startSelf(ctx, name, "files", "--dir", f.Files())
	case Floor:
		t, err = f.startFloor(ctx, o, set)
	case NginxFiles, NginxCache, NginxLog:
		t, err = f.startNginx(ctx, name, o, set)
	default:
		err = errors.New("no such peer")
	}
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return t, nil
}

// large is from where on a file is worth its disk space during a run.
const large = 1 << 20

// Stop ends a target and removes the large files that it cached. External targets
// and the direct way are left alone.
//
// Small files stay until Close: on an ext4 without a journal (many virtual
// machines have it so) creating a file costs 0.5 ms of CPU instead of 0.02 for
// minutes after thousands were deleted, and the next target would pay for it.
func (f *Fleet) Stop(t *Target) error {
	if t.proc == nil {
		return nil
	}
	f.end(t.proc)
	return filepath.WalkDir(t.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() < large {
			return err
		}
		return os.Remove(path)
	})
}

// Restart stops a target and starts it again on the same cache and address, and
// does not wait until it answers. It returns how long the stop took and when the
// new process was started.
func (f *Fleet) Restart(ctx context.Context, t *Target) (stop time.Duration, started time.Time, err error) {
	if t.restart == nil {
		return 0, time.Time{}, fmt.Errorf("%s cannot be restarted", t.Name)
	}
	stop = f.Halt(t)
	started, err = f.Again(ctx, t)
	return stop, started, err
}

// Halt stops a target that Again will start; it returns how long that took.
func (f *Fleet) Halt(t *Target) time.Duration { return f.end(t.proc) }

// Kill ends a target as a crash would, with SIGKILL; Again will start it.
func (f *Fleet) Kill(t *Target) {
	t.proc.Kill()
	f.forget(t.proc)
}

// Again starts a halted target on the same cache and address, does not wait until
// it answers, and returns when the process was started.
func (f *Fleet) Again(ctx context.Context, t *Target) (time.Time, error) {
	started := time.Now()
	return started, t.restart(ctx)
}

// Files is the folder that the static peers serve.
func (f *Fleet) Files() string { return filepath.Join(f.dir, "files") }

func (f *Fleet) end(p *proc.Process) time.Duration {
	took := p.Stop()
	f.forget(p)
	return took
}

func (f *Fleet) forget(p *proc.Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.running, p)
}

// run starts a program that Close will end.
func (f *Fleet) run(s proc.Spec) (*proc.Process, error) {
	p, err := proc.Start(s)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running[p] = true
	return p, nil
}

// Folder makes a fresh folder that goes with the fleet.
func (f *Fleet) Folder(name string) (string, error) { return f.folder(name) }

func (f *Fleet) folder(name string) (string, error) {
	f.mu.Lock()
	f.count++
	dir := filepath.Join(f.dir, name+"-"+strconv.Itoa(f.count))
	f.mu.Unlock()
	return dir, os.MkdirAll(dir, 0o755)
}

// startSelf starts one of the bench's own servers on a free port.
func (f *Fleet) startSelf(ctx context.Context, name, command string, args ...string) (*Target, error) {
	dir, err := f.folder(name)
	if err != nil {
		return nil, err
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	t := &Target{Name: name, Base: "http://" + addr, dir: dir}
	return t, f.launch(ctx, t, proc.Spec{
		Path: f.opts.Self, Args: append([]string{command, "--listen", addr}, args...), Log: filepath.Join(dir, "log"),
	})
}

// launch starts a target's process, remembers how to do so again, and waits
// until it answers.
func (f *Fleet) launch(ctx context.Context, t *Target, s proc.Spec) error {
	t.restart = func(context.Context) error {
		p, err := f.run(s)
		if err != nil {
			return err
		}
		t.proc, t.Pids = p, []int{p.Pid()}
		return nil
	}
	if err := t.restart(ctx); err != nil {
		return err
	}
	err := t.proc.Await(ctx, 15*time.Second, t.Answers)
	if err != nil {
		f.end(t.proc)
		return err
	}
	t.Pids = t.proc.Pids()
	return nil
}

// Answers tells whether an HTTP server is there: any status that is no failure of its
// own will do, since the static peers have nothing at /v2/.
func (t *Target) Answers(ctx context.Context) error {
	c, err := load.New(load.Options{Base: t.Base})
	if err != nil {
		return err
	}
	defer c.Close()
	resp, err := c.Do(ctx, load.Request{Method: http.MethodHead, Path: "/v2/"})
	if err == nil && resp.Status >= 500 {
		err = fmt.Errorf("status %d", resp.Status)
	}
	return err
}

// freeAddress asks the kernel for a port that is free now. Somebody else could
// take it before the peer does; the peer then says so and the run fails.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("free port: %w", err)
	}
	return ln.Addr().String(), ln.Close()
}
