package config

import "strings"

// rootFields are the top-level keys of the file.
func rootFields() fields {
	return fields{
		"listen":           (*loader).listen,
		"tls":              func(l *loader, v value) { l.section(v, tlsFields()) },
		"admin":            func(l *loader, v value) { l.section(v, adminFields()) },
		"log":              func(l *loader, v value) { l.section(v, logFields()) },
		"cache":            func(l *loader, v value) { l.section(v, cacheFields()) },
		"rate":             func(l *loader, v value) { set(l, v, &l.cfg.Rate, parseRate) },
		"default_upstream": (*loader).defaultUpstream,
		"upstreams":        (*loader).upstreams,
	}
}

func tlsFields() fields {
	return fields{
		"cert": func(l *loader, v value) { set(l, v, &l.cfg.TLS.Cert, pathIn(v.at.base)) },
		"key":  func(l *loader, v value) { set(l, v, &l.cfg.TLS.Key, pathIn(v.at.base)) },
	}
}

func adminFields() fields {
	return fields{
		"listen":     (*loader).adminListen,
		"token_file": func(l *loader, v value) { set(l, v, &l.cfg.Admin.TokenFile, pathIn(v.at.base)) },
		"hosts":      func(l *loader, v value) { setList(l, v, &l.cfg.Admin.Hosts, parseHost) },
	}
}

func logFields() fields {
	return fields{
		"level":  (*loader).logLevel,
		"format": func(l *loader, v value) { set(l, v, &l.cfg.Log.Format, oneOf("json", "console")) },
	}
}

func cacheFields() fields {
	return fields{
		"dir":             (*loader).cacheDir,
		"max_size":        (*loader).cacheSize,
		"min_free":        func(l *loader, v value) { set(l, v, &l.cfg.Cache.MinFree, parseMinFree) },
		"abandoned_fills": (*loader).abandonedFills,
		"fills_kept":      func(l *loader, v value) { set(l, v, &l.cfg.Cache.FillsKept, parseDuration) },
		"scrub_rate":      func(l *loader, v value) { set(l, v, &l.cfg.Cache.ScrubRate, parseRate) },
	}
}

// misplacedKey says where a key belongs that is known in one other section; empty if in none or in several.
func misplacedKey(key string) string {
	sections := map[string]fields{
		"the top level":         rootFields(),
		"tls:":                  tlsFields(),
		"admin:":                adminFields(),
		"log:":                  logFields(),
		"cache:":                cacheFields(),
		"an upstream's section": upstreamFields(&Upstream{}),
	}
	var found []string
	for name, known := range sections {
		if _, ok := known[key]; ok {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		return ""
	}
	return "it belongs into " + found[0]
}

// The methods below take a key of the file, and the flag and variable that stand for it. A value from outside the file
// has no path of its own, so each names it.

func (l *loader) listen(v value) {
	v.path = "listen"
	set(l, v, &l.cfg.Listen, parseListen)
}

func (l *loader) adminListen(v value) {
	v.path = "admin.listen"
	set(l, v, &l.cfg.Admin.Listen, func(s string) (string, error) { return parseAdminListen(s, v.at.base) })
}

func (l *loader) logLevel(v value) {
	v.path = "log.level"
	set(l, v, &l.cfg.Log.Level, oneOf("debug", "info", "warn", "error"))
}

func (l *loader) cacheDir(v value) {
	v.path = "cache.dir"
	set(l, v, &l.cfg.Cache.Dir, pathIn(v.at.base))
}

func (l *loader) cacheSize(v value) {
	v.path = "cache.max_size"
	set(l, v, &l.cfg.Cache.MaxSize, parseMaxSize)
}

func (l *loader) defaultUpstream(v value) {
	v.path = "default_upstream"
	set(l, v, &l.cfg.DefaultUpstream, parseUpstreamName)
}

func (l *loader) abandonedFills(v value) {
	var choice string
	if set(l, v, &choice, oneOf("continue", "stop")) {
		l.cfg.Cache.StopAbandoned = choice == "stop"
	}
}

// setList takes over a list of single values, each by parse; a value that is there twice is kept once.
func setList(l *loader, v value, dst *[]string, parse func(string) (string, error)) {
	l.at[v.path] = v.at
	seen := map[string]bool{}
	l.items(v, func(item value) {
		var got string
		if set(l, item, &got, parse) && !seen[got] {
			seen[got] = true
			*dst = append(*dst, got)
		}
	})
}

// oneOf accepts a closed set of words.
func oneOf(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		for _, w := range words {
			if s == w {
				return s, nil
			}
		}
		return "", flaw{quoted(s) + " is not known", "write " + strings.Join(words, ", ")}
	}
}
