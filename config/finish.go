package config

import (
	"net"
	"slices"
	"strings"
)

// finish fills what depends on several keys, and checks them together. Problems name the key that was written, or the
// one that is missing.
func (l *loader) finish() {
	l.checkTLS()
	l.checkListeners()
	l.finishCache()
	l.finishDefaultUpstream()
}

// whole is the place of problems with keys nobody wrote: the file, or the command line if there is none.
func (l *loader) whole() origin {
	if name, _, _ := l.src.configFile(); l.cfg.File != "" {
		return origin{source: name, line: 1}
	}
	return origin{source: "cistern serve"}
}

// checkTLS wants both halves of the pair.
func (l *loader) checkTLS() {
	if l.has("tls.cert") && !l.has("tls.key") {
		l.report(l.at["tls.cert"], "tls.cert", flaw{"stands without tls.key", "add the private key's file"})
	}
	if l.has("tls.key") && !l.has("tls.cert") {
		l.report(l.at["tls.key"], "tls.key", flaw{"stands without tls.cert", "add the certificate's file"})
	}
}

// checkListeners sees two listeners on one port before the kernel does.
func (l *loader) checkListeners() {
	host, port, err := net.SplitHostPort(l.cfg.Listen)
	adminHost, adminPort, adminErr := net.SplitHostPort(l.cfg.Admin.Listen)
	if err != nil || adminErr != nil || port != adminPort || port == "0" {
		return
	}
	if host != adminHost && !isWildcard(host) && !isWildcard(adminHost) {
		return
	}
	at, path := l.at["listen"], "listen"
	if l.has("admin.listen") {
		at, path = l.at["admin.listen"], "admin.listen"
	}
	l.report(at, path, flaw{"the registry and the admin listener share port " + port, "give one of them another port"})
}

// isWildcard reports whether a listener on host covers every address.
func isWildcard(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// finishCache chooses directory and size where nobody did, and wants some bound.
func (l *loader) finishCache() {
	c := &l.cfg.Cache
	if !l.has("cache.dir") {
		c.Dir, c.DirDefaulted = defaultCacheDir(l.src), true
		if c.Dir == "" {
			l.report(l.whole(), "cache.dir", flaw{"no folder for the cache is known: neither $CACHE_DIRECTORY nor a home folder is set", "set cache.dir or --cache-dir"})
			return
		}
	}
	if c.Dir == "/" {
		l.report(l.at["cache.dir"], "cache.dir", flaw{"is the root of the file system", "name a folder of its own"})
	}
	if !l.has("cache.max_size") {
		c.MaxSize, c.SizeDefaulted = DefaultMaxSize, true
		if l.src.Available != nil && len(l.problems) == 0 {
			if n, err := l.src.Available(c.Dir); err == nil {
				c.MaxSize = DefaultSize(n)
			}
		}
		return
	}
	if c.MaxSize == 0 && c.MinFree == (MinFree{}) && !l.flawed["cache.max_size"] && !l.flawed["cache.min_free"] {
		l.report(l.at["cache.max_size"], "cache.max_size", flaw{"is off, and so is cache.min_free: the cache would fill the disk", "set one of them"})
	}
}

// finishDefaultUpstream settles who answers requests that name no upstream.
func (l *loader) finishDefaultUpstream() {
	names := make([]string, len(l.cfg.Upstreams))
	for i, u := range l.cfg.Upstreams {
		names[i] = u.Name
	}
	if len(names) == 0 {
		if !slices.ContainsFunc(l.problems, func(p Problem) bool { return strings.HasPrefix(p.Key, "upstreams") }) {
			l.report(l.at["upstreams"], "upstreams", flaw{"no upstream is configured", "add one, or leave the key out for the well-known registries"})
		}
		return
	}
	switch {
	case l.has("default_upstream"):
		if name := l.cfg.DefaultUpstream; name != "" && !slices.Contains(names, name) {
			l.report(l.at["default_upstream"], "default_upstream", flaw{quoted(name) + " is not configured", "write one of " + strings.Join(names, ", ")})
		}
	case slices.Contains(names, DefaultUpstreamName):
		l.cfg.DefaultUpstream = DefaultUpstreamName
	case len(names) == 1:
		l.cfg.DefaultUpstream = names[0]
	}
}
