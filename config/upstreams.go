package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// maxCount bounds max_streams and max_connections: more would only exhaust ports and open files.
const maxCount = 1024

// upstreams takes over the `upstreams` section, which replaces the built-in set. Left empty it is as if it was not there.
func (l *loader) upstreams(v value) {
	if v.isNull() {
		return
	}
	l.at[v.path] = v.at
	l.cfg.Upstreams = nil
	written := map[string]string{}
	l.each(v, func(key string, at origin, child value) {
		name, err := parseUpstreamName(key)
		if err != nil {
			l.reject(value{path: v.path, at: at}, err)
			return
		}
		if before, twice := written[name]; twice {
			l.report(at, child.path, flaw{fmt.Sprintf("%s and %s are one upstream", before, key), "keep one of them, with all its endpoints"})
			return
		}
		written[name] = key
		u := newUpstream(name)
		child.path = join(v.path, name)
		l.at[child.path] = at
		l.section(child, upstreamFields(&u))
		l.checkUpstream(child.path, &u)
		l.cfg.Upstreams = append(l.cfg.Upstreams, u)
	})
}

// upstreamFields are the keys of one upstream, which fill u.
func upstreamFields(u *Upstream) fields {
	return fields{
		"endpoints":       func(l *loader, v value) { setList(l, v, &u.Endpoints, parseEndpoint) },
		"username":        func(l *loader, v value) { set(l, v, &u.Credentials.Username, parseUsername) },
		"password_file":   func(l *loader, v value) { set(l, v, &u.Credentials.PasswordFile, pathIn(v.at.base)) },
		"password_env":    func(l *loader, v value) { set(l, v, &u.Credentials.PasswordEnv, parseEnvVar) },
		"credentials":     func(l *loader, v value) { l.credentials(v, u) },
		"tags":            func(l *loader, v value) { l.items(v, func(item value) { l.tagRule(item, u) }) },
		"stale_if_error":  func(l *loader, v value) { set(l, v, &u.StaleIfError, parseDuration) },
		"max_streams":     func(l *loader, v value) { set(l, v, &u.MaxStreams, countUpTo(maxCount)) },
		"range_miss":      func(l *loader, v value) { set(l, v, &u.RangeMiss, oneOf(RangeExtent, RangeFill, RangePass)) },
		"max_connections": func(l *loader, v value) { set(l, v, &u.MaxConnections, countUpTo(maxCount)) },
		"rate":            func(l *loader, v value) { set(l, v, &u.Rate, parseRate) },
		"network":         func(l *loader, v value) { set(l, v, &u.Network, oneOf(NetworkAuto, NetworkPublic, NetworkPrivate)) },
		"token_hosts":     func(l *loader, v value) { setList(l, v, &u.TokenHosts, parseHost) },
		"ca_file":         func(l *loader, v value) { set(l, v, &u.CAFile, pathIn(v.at.base)) },
	}
}

// credentials takes over `credentials: docker`.
func (l *loader) credentials(v value, u *Upstream) {
	var choice string
	u.Credentials.Docker = set(l, v, &choice, oneOf("docker"))
}

// tagRule takes over one line of `tags`.
func (l *loader) tagRule(v value, u *Upstream) {
	var rule TagRule
	l.section(v, fields{
		"match": func(l *loader, v value) { set(l, v, &rule.Match, parseMatch) },
		"fresh": func(l *loader, v value) { set(l, v, &rule.Fresh, parseDuration) },
	})
	for _, key := range []string{"match", "fresh"} {
		if !l.has(join(v.path, key)) {
			l.report(v.at, v.path, flaw{"a rule without " + key, `write { match: ".*", fresh: 1m }`})
		}
	}
	u.Tags = append(u.Tags, rule)
}

// checkUpstream looks at what the keys of one upstream say together.
func (l *loader) checkUpstream(path string, u *Upstream) {
	if len(u.Endpoints) == 0 && !l.has(path+".endpoints") {
		if e := defaultEndpoint(u.Name); e != "" {
			u.Endpoints = []string{e}
		}
	}
	if len(u.Endpoints) == 0 && !l.flawed[path+".endpoints"] {
		at := cmp.Or(l.at[path+".endpoints"], l.at[path])
		l.report(at, path+".endpoints", flaw{"has no endpoint", `write endpoints: ["https://..."]`})
	}
	l.checkCredentials(path)
	if u.MaxStreams > u.MaxConnections {
		if at, ok := l.at[path+".max_streams"]; ok {
			l.report(at, path+".max_streams", flaw{fmt.Sprintf("is more than max_connections (%d)", u.MaxConnections), "lower this, or raise that"})
		}
		u.MaxStreams = u.MaxConnections
	}
}

// checkCredentials allows a user name with one password, or the docker client's configuration, or nothing.
func (l *loader) checkCredentials(path string) {
	user, userAt := path+".username", l.at[path+".username"]
	file, env, docker := path+".password_file", path+".password_env", path+".credentials"
	if l.has(docker) && (l.has(user) || l.has(file) || l.has(env)) {
		l.report(l.at[docker], docker, flaw{"stands beside a username or password", "keep one kind of credentials"})
		return
	}
	if l.has(file) && l.has(env) {
		l.report(l.at[env], env, flaw{"stands beside password_file", "keep one of them"})
	}
	if hasPassword := l.has(file) || l.has(env); l.has(user) && !hasPassword {
		l.report(userAt, user, flaw{"has no password", "add password_file or password_env"})
	} else if hasPassword && !l.has(user) {
		at, key := l.at[file], file
		if !l.has(file) {
			at, key = l.at[env], env
		}
		l.report(at, key, flaw{"has no user name", "add username"})
	}
}

// addUpstream takes NAME=URL from a flag or variable. The first one for a name replaces the endpoints that a weaker
// source gave it, its other keys stay; the next ones add endpoints.
func (l *loader) addUpstream(v value) {
	label, raw, ok := strings.Cut(strings.TrimSpace(v.text), "=")
	if !ok {
		l.reject(v, flaw{"is not NAME=URL", "write it like docker.io=https://registry-1.docker.io"})
		return
	}
	name, err := parseUpstreamName(label)
	if err != nil {
		l.reject(v, err)
		return
	}
	endpoint, err := parseEndpoint(raw)
	if err != nil {
		l.reject(v, err)
		return
	}
	i := slices.IndexFunc(l.cfg.Upstreams, func(u Upstream) bool { return u.Name == name })
	if i < 0 {
		i = len(l.cfg.Upstreams)
		l.cfg.Upstreams = append(l.cfg.Upstreams, newUpstream(name))
	}
	u := &l.cfg.Upstreams[i]
	if l.endpointsFrom[name] != v.at.source {
		l.endpointsFrom[name] = v.at.source
		u.Endpoints = nil
	}
	if !slices.Contains(u.Endpoints, endpoint) {
		u.Endpoints = append(u.Endpoints, endpoint)
	}
}

// parseMatch reads the pattern of a tag rule.
func parseMatch(s string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(s)
	if err != nil {
		wrong := quoted(s) + " is not a regular expression"
		var se *syntax.Error
		if errors.As(err, &se) {
			wrong += ": " + se.Code.String()
		}
		return nil, flaw{wrong, "write RE2 syntax; a backslash in double quotes is written twice"}
	}
	return re, nil
}

// parseUsername reads a user name for HTTP Basic authentication, which cannot carry a colon. It repeats nothing: what
// stands behind a colon is a password.
func parseUsername(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, ":\r\n\x00") {
		return "", flaw{"is not a user name", "write the account's name alone, without a password"}
	}
	return s, nil
}

// parseEnvVar reads the name of a variable, and does not repeat it: it may be the password itself.
func parseEnvVar(s string) (string, error) {
	if !envVar.MatchString(s) {
		return "", flaw{"is not the name of a variable", "name the variable that holds the password, not the password"}
	}
	return s, nil
}
