package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"go.uber.org/zap"

	"cistern/cache"
	"cistern/cache/bandwidth"
	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/config"
	"cistern/internal/admin"
	"cistern/internal/listener"
	"cistern/internal/metric"
	"cistern/proxy"
	"cistern/proxy/savings"
	"cistern/upstream"
)

// daemon is everything that `cistern serve` runs. It is built by newDaemon,
// served by run, and ended by close.
type daemon struct {
	conf      *config.Config
	log       *logger
	upstreams []proxy.Upstream
	cache     *cache.Cache
	savings   *savings.Book
	proxy     *proxy.Handler
	admin     *admin.Handler

	registry *listener.Listener
	adminAt  *listener.Listener // nil: off
	looseDir bool               // others could write to the cache directory before we came
	closed   chan struct{}      // closed when stop has closed everything
}

// newDaemon opens listeners, then cache: a port in use is found before the
// cache is touched, and clients that come early wait in the kernel's queue.
func newDaemon(conf *config.Config, log *logger, getenv func(string) string) (_ *daemon, err error) {
	d := &daemon{conf: conf, log: log, closed: make(chan struct{})}
	defer func() {
		if err != nil {
			d.close(nil)
		}
	}()
	if d.upstreams, err = newUpstreams(conf.Upstreams, "cistern/"+version, getenv); err != nil {
		return nil, &exitError{exitUsage, err}
	}
	if err := d.listen(); err != nil {
		return nil, &exitError{exitFailed, err}
	}
	if err := d.openCache(); err != nil {
		return nil, err
	}
	d.savings = savings.Open(d.cache, log.Logger)
	d.proxy = proxy.New(proxy.Options{
		Cache: d.cache, Upstreams: d.upstreams, Default: conf.DefaultUpstream,
		Aliases:       map[string]string{"index.docker.io": "docker.io", "registry-1.docker.io": "docker.io"},
		Log:           log.Logger,
		Savings:       d.savings,
		MirrorAddress: pageAddress(conf, d.registry.Addr()),
	})
	if d.adminAt != nil {
		d.admin = d.newAdmin()
	}
	return d, nil
}

func (d *daemon) listen() (err error) {
	d.registry, err = listener.Listen(listener.Options{
		Address: d.conf.Listen, Cert: d.conf.TLS.Cert, Key: d.conf.TLS.Key, Log: d.log.Logger,
	})
	if err != nil {
		return err
	}
	if d.conf.Admin.Listen == config.AdminOff {
		return nil
	}
	d.adminAt, err = listener.Listen(listener.Options{Address: d.conf.Admin.Listen, MaxConnections: adminConnections, Uploads: true, Log: d.log.Logger})
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

// adminConnections is plenty for Prometheus, probes and people.
const adminConnections = 64

// openCache opens the cache directory. What only a person can mend, another
// process in it or a newer layout, ends the program with code 2: a restart by
// systemd would not help.
func (d *daemon) openCache() (err error) {
	c := d.conf.Cache
	if st, err := os.Stat(c.Dir); err == nil && st.Mode().Perm()&0o022 != 0 {
		d.looseDir = true
	}
	d.cache, err = cache.Open(cache.Options{
		Dir: c.Dir, Limit: c.MaxSize, MinFree: c.MinFree.Of, StopAbandoned: c.StopAbandoned, FillsKept: c.FillsKept, ScrubRate: c.ScrubRate,
		Bandwidth: bandwidth.New(d.conf.Rate), Log: d.log.Logger,
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, blob.ErrLocked), errors.Is(err, blob.ErrVersion), errors.Is(err, index.ErrLocked), errors.Is(err, index.ErrVersion):
		return &exitError{exitUsage, err}
	}
	return &exitError{exitFailed, err}
}

func (d *daemon) newAdmin() *admin.Handler {
	clients := make([]*upstream.Upstream, len(d.upstreams))
	for i, u := range d.upstreams {
		clients[i] = u.Client
	}
	v := thisVersion()
	metrics := metric.Registry(metric.Sources{
		Proxy: d.proxy.Stats, Cache: d.cache.Stats, Listener: d.registry.Stats,
		Upstreams: func() []upstream.Stats {
			out := make([]upstream.Stats, len(clients))
			for i, u := range clients {
				out[i] = u.Stats()
			}
			return out
		},
		Version: v.Version, Revision: v.Revision,
	})
	return admin.New(admin.Options{
		Registry: d.proxy, Images: d.proxy, Cache: d.cache, Kept: d.cache, Verifier: d.proxy, Carrier: d.proxy,
		Upstreams: clients, Default: d.conf.DefaultUpstream,
		Savings: d.savings.Report, Metrics: metric.Handler(metrics), Listener: d.registry, CacheDir: d.conf.Cache.Dir, Version: v,
		Address: d.adminAt.Addr(), Hosts: adminHosts(d.conf.Admin), TokenFile: d.conf.Admin.TokenFile, Log: d.log.Logger,
	})
}

// serve answers on both listeners. The channel gets an error if one of them
// ends by itself, and is closed when both have ended.
func (d *daemon) serve() <-chan error {
	type pair struct {
		at *listener.Listener
		h  http.Handler
	}
	pairs := []pair{{d.registry, d.proxy}}
	if d.adminAt != nil {
		pairs = append(pairs, pair{d.adminAt, d.admin})
	}
	ended := make(chan error, len(pairs))
	for _, p := range pairs {
		go func() { ended <- p.at.Serve(p.h) }()
	}
	failed := make(chan error, len(pairs))
	go func() {
		defer close(failed)
		for range pairs {
			if err := <-ended; err != nil {
				failed <- err
			}
		}
	}()
	return failed
}

// drainTime is what responses get to finish in (DESIGN section 7).
const drainTime = 8 * time.Second

// settleTime is what the cache gets for its last checkpoint: a disk that does not
// answer must not keep the process.
const settleTime = 10 * time.Second

func (d *daemon) closeCache() {
	closed := make(chan error, 1)
	go func() {
		d.savings.Close() // as long as the directory is ours
		closed <- d.cache.Close()
	}()
	var err error
	select {
	case err = <-closed:
	case <-time.After(settleTime):
		err = fmt.Errorf("the disk did not answer within %s: what is not recorded yet will be hashed or fetched again", settleTime)
	}
	if err != nil {
		d.log.Error("closing the cache", zap.Error(err))
	}
}

// close ends everything that was opened, in the order in which the parts lean
// on each other. drain lets the registry's responses finish first; nil cuts.
func (d *daemon) close(drain func(*listener.Listener)) {
	if d.registry != nil {
		if drain != nil {
			drain(d.registry)
		}
		d.registry.Close()
	}
	if d.adminAt != nil { // what is imported would keep the cache
		d.adminAt.Close()
	}
	if d.cache != nil {
		d.closeCache()
	}
	closeUpstreams(d.upstreams)
}
