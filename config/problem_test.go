package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	got := problems(t, written(t, `listen: "5000"
cache:
  max-size: 100GiB
  min_free: plenty
upstreams:
  docker.io:
    endpoints: ["registry-1.docker.io"]
    tags:
      - { match: "(", fresh: 1 }
  index.docker.io:
default_upstream: quay.io
`))
	want := []string{
		`cistern.yaml:1: listen: "5000" is a port, not an address; write ":5000"`,
		`cistern.yaml:3: cache.max-size: unknown key; did you mean max_size?`,
		`cistern.yaml:4: cache.min_free: "plenty" is neither a size nor a percentage; write 5GiB, or 5%`,
		`cistern.yaml:7: upstreams.docker.io.endpoints[0]: "registry-1.docker.io" does not start with https:// or http://; write the scheme; plain HTTP is used only where it is written`,
		`cistern.yaml:9: upstreams.docker.io.tags[0].match: "(" is not a regular expression: missing closing ); write RE2 syntax; a backslash in double quotes is written twice`,
		`cistern.yaml:9: upstreams.docker.io.tags[0].fresh: "1" is not a duration; write a number and a unit, such as 30s, 5m, 24h or 7d`,
		`cistern.yaml:10: upstreams.index.docker.io: docker.io and index.docker.io are one upstream; keep one of them, with all its endpoints`,
		`cistern.yaml:11: default_upstream: "quay.io" is not configured; write one of docker.io`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestProblemsOutsideTheFile(t *testing.T) {
	t.Parallel()
	s := written(t, "log: { level: loud }\n")
	s.Getenv = environ(map[string]string{"CISTERN_CACHE_SIZE": "big", "CISTERN_UPSTREAM": "x"})
	s.Flags = flags("cache-size", "small", "upstream", "x y=http://a", "upstream", "x=a", "default-upstream", "gone", "listen", "host")
	want := []string{
		`cistern.yaml:1: log.level: "loud" is not known; write debug, info, warn, error`,
		`CISTERN_CACHE_SIZE: "big" is not a size; write a number and a unit, such as 50GiB or 500MB`,
		`CISTERN_UPSTREAM: is not NAME=URL; write it like docker.io=https://registry-1.docker.io`,
		`--listen: "host" is not an address to listen on; write host:port, or ":5000" for every address of this machine`,
		`--cache-size: "small" is not a size; write a number and a unit, such as 50GiB or 500MB`,
		`--upstream: "x y" is not the name of an upstream; write the registry's host[:port], or a label of letters, digits, - and _`,
		`--upstream: "a" does not start with https:// or http://; write the scheme; plain HTTP is used only where it is written`,
		`--default-upstream: "gone" is not configured; write one of docker.io, ghcr.io`,
	}
	got := problems(t, s)
	for i, line := range got {
		if i >= len(want) || !strings.HasPrefix(line, want[i]) {
			t.Errorf("line %d: %s", i, line)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d problems, want %d", len(got), len(want))
	}
}

// Each line is a file and what its only problem is.
func TestProblems(t *testing.T) {
	t.Parallel()
	const up = "upstreams:\n  r.example.com:\n    "
	for _, c := range []struct{ name, give, want string }{
		{"unknown key", "lissten: ':1'", "1: lissten: unknown key; did you mean listen?"},
		{"swapped letters", "upstraems:", "1: upstraems: unknown key; did you mean upstreams?"},
		{"far off", "colour: red", "1: colour: unknown key; known here are admin, cache, default_upstream, listen, log, rate, tls, upstreams"},
		{"other section", "max_size: 1GiB", "1: max_size: unknown key; it belongs into cache:"},
		{"other program", up + "insecure: true", "3: upstreams.r.example.com.insecure: unknown key; write the endpoint as http://"},
		{"secret", up + "password: hunter2", "3: upstreams.r.example.com.password: unknown key; secrets stay out of this file"},
		{"odd key", "\"a\\nb\": 1", `1: "a\nb": unknown key;`},
		{"twice", "log: {}\nlisten: ':1'\nlog: {}", "3: log: is here a second time, first in line 1; keep one of them"},
		{"no section", "cache: 5GiB", "1: cache: is a single value, not a section; write its keys below it, indented"},
		{"list for section", "- a", "1: is a list, not a section"},
		{"no list", up + "endpoints: https://r", "3: upstreams.r.example.com.endpoints: is a single value, not a list; write it as [a, b]"},
		{"list for value", "listen: [a]", "1: listen: is a list, not a single value"},
		{"no value", "listen:", "1: listen: has no value; write one, or leave the key out"},
		{"key is a list", "[a]: 1", "1: a key is a list; write a plain name"},
		{"merge", "a: &a {}\nlog:\n  <<: *a", "1: a: unknown key"},
		{"endless alias", "log: &a { level: *a }", "1: log.level: is a section, not a single value"},
		{"tls half", "tls: { key: k }", "1: tls.key: stands without tls.cert; add the certificate's file"},
		{"tls other half", "tls: { cert: c }", "1: tls.cert: stands without tls.key; add the private key's file"},
		{"home", "cache: { dir: ~/cache }", "1: cache.dir: ~ is not expanded; write the whole path"},
		{"root", "cache: { dir: / }", "1: cache.dir: is the root of the file system; name a folder of its own"},
		{"no bound", "cache:\n  min_free: 0\n  max_size: 0B", "3: cache.max_size: is off, and so is cache.min_free"},
		{"no unit", "cache: { max_size: 100 }", `1: cache.max_size: "100" is less than 1 MiB; write the unit, such as 50GiB`},
		{"negative", "cache: { max_size: -1GiB }", `1: cache.max_size: "-1GiB" is not a size`},
		{"huge", "cache: { max_size: 16EiB }", `1: cache.max_size: "16EiB" is not a size`},
		{"percent", "cache: { min_free: 100% }", `1: cache.min_free: "100%" is not a percentage`},
		{"percent NaN", "cache: { min_free: NaN% }", `1: cache.min_free: "NaN%" is not a percentage`},
		{"abandoned", "cache: { abandoned_fills: pause }", `1: cache.abandoned_fills: "pause" is not known; write continue, stop`},
		{"format", "log: { format: text }", `1: log.format: "text" is not known; write json, console`},
		{"one port", "listen: ':5001'", "1: listen: the registry and the admin listener share port 5001; give one of them another port"},
		{"one port, admin", "admin: { listen: '0.0.0.0:5000' }", "1: admin.listen: the registry and the admin listener share port 5000"},
		{"named port", "listen: ':http'", `1: listen: ":http" has no port number from 0 to 65535`},
		{"host", "listen: 'a b:1'", `1: listen: "a b:1" has a host that is neither a name nor an IP address`},
		{"admin", "admin: { listen: none }", `1: admin.listen: "none" is not an address to listen on; write host:port (port 0: any free one), "unix:/path" or "off"`},
		{"admin socket", "admin: { listen: 'unix:' }", "1: admin.listen: is an empty path"},
		{"long socket", "admin: { listen: 'unix:/" + strings.Repeat("x", 107) + "' }", "1: admin.listen: the path of the socket is longer than 107 bytes"},
		{"admin host", "admin: { hosts: ['https://x'] }", `1: admin.hosts[0]: "https://x" is not a host`},
		{"no upstream", "upstreams: {}", "1: upstreams: no upstream is configured; add one, or leave the key out"},
		{"upstream a URL", "upstreams: { 'https://ghcr.io': }", `1: upstreams: "https://ghcr.io" is not the name of an upstream; write the registry's host alone`},
		{"upstream a port", "upstreams: { 'r:0': }", `1: upstreams: "r:0" is not the name of an upstream`},
		{"label", "upstreams: { lab: }", `1: upstreams.lab.endpoints: has no endpoint; write endpoints: ["https://..."]`},
		{"no endpoint", up + "endpoints: []", "3: upstreams.r.example.com.endpoints: has no endpoint"},
		{"bad endpoint", up + "endpoints: ['https://r/v2/']", `3: upstreams.r.example.com.endpoints[0]: "https://r/v2/" ends in /v2`},
		{"endpoint query", up + "endpoints: ['https://r/?x']", `3: upstreams.r.example.com.endpoints[0]: "https://r/?x" has a query`},
		{"endpoint host", up + "endpoints: ['https://']", `3: upstreams.r.example.com.endpoints[0]: "https://" has no proper host`},
		{"endpoint password", up + "endpoints: ['https://me:hunter2@r']", "3: upstreams.r.example.com.endpoints[0]: holds a user name or password; move them"},
		{"rule without fresh", up + "tags: [ { match: x } ]", "3: upstreams.r.example.com.tags[0]: a rule without fresh"},
		{"negative duration", up + "stale_if_error: -1h", `3: upstreams.r.example.com.stale_if_error: "-1h" is not a duration`},
		{"overflow", up + "stale_if_error: 106751d24h", `3: upstreams.r.example.com.stale_if_error: "106751d24h" is not a duration`},
		{"streams", up + "max_connections: 2\n    max_streams: 3", "4: upstreams.r.example.com.max_streams: is more than max_connections (2)"},
		{"count", up + "max_streams: 0", `3: upstreams.r.example.com.max_streams: "0" is not a count; write a whole number from 1 to 1024`},
		{"rate in bits", up + "rate: 100Mbit/s", `3: upstreams.r.example.com.rate: "100Mbit/s" is not a rate; write bytes per second, such as 12MB for 100 Mbit/s; 0 for none`},
		{"rate without a unit", "rate: 100", `1: rate: "100" is less than 16 KiB a second; write the unit, such as 12MB`},
		{"network", up + "network: lan", `3: upstreams.r.example.com.network: "lan" is not known; write auto, public, private`},
		{"token host", up + "token_hosts: ['https://x']", `3: upstreams.r.example.com.token_hosts[0]: "https://x" is not a host`},
		{"no password", up + "username: me", "3: upstreams.r.example.com.username: has no password; add password_file or password_env"},
		{"no user", up + "password_env: P", "3: upstreams.r.example.com.password_env: has no user name; add username"},
		{"two passwords", up + "username: me\n    password_file: f\n    password_env: P", "5: upstreams.r.example.com.password_env: stands beside password_file"},
		{"two accounts", up + "username: me\n    password_file: f\n    credentials: docker", "5: upstreams.r.example.com.credentials: stands beside a username or password"},
		{"user with password", up + "password_env: P\n    username: me:hunter2", "4: upstreams.r.example.com.username: is not a user name"},
		{"password for a name", up + "username: me\n    password_env: hunter2!", "4: upstreams.r.example.com.password_env: is not the name of a variable"},
		{"tab", "log:\n\tlevel: info", "2: a tab in the indentation; YAML is indented by spaces only"},
		{"control character", "listen: ':1'\nlog: { level: \x01 }", "2: byte 0x01 is not UTF-8 text"},
		{"syntax", "listen: ':1'\nlog @", "2: could not find expected ':'; correct the YAML there, or next to it"},
		{"two documents", "listen: ':1'\n---\nlisten: ':2'", "2: a second YAML document starts here"},
		{"bytes", "# fine\nlisten: \xff", "2: byte 0xff is not UTF-8 text; save the file as UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := problems(t, written(t, c.give))
			if !strings.HasPrefix(got[0], "cistern.yaml:"+c.want) {
				t.Errorf("got  %s\nwant cistern.yaml:%s", got[0], c.want)
			}
			if all := strings.Join(got, "\n"); strings.Contains(all, "hunter2") {
				t.Errorf("a password in %s", all)
			}
			if len(got) > 1 && c.name != "merge" {
				t.Errorf("follow-on problems: %q", got[1:])
			}
		})
	}
}

func TestFilesThatAreNone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := bare()
	for path, want := range map[string]string{
		dir:             dir + ": is a directory; name the YAML file in it",
		dir + "/none":   dir + "/none: cannot be read: no such file or directory; check the path and its permissions",
		"/dev/zero":     "/dev/zero: is larger than 1 MiB; this is hardly a configuration; check the path",
		"relative/none": "relative/none: cannot be read: no such file or directory; check the path and its permissions",
	} {
		s.Flags = flags("config", path)
		if got := problems(t, s); got[0] != want {
			t.Errorf("%s: %s", path, got[0])
		}
	}
}

func TestManyProblems(t *testing.T) {
	t.Parallel()
	got := problems(t, written(t, strings.Repeat("a:\n", 5000)))
	if len(got) != maxPrinted+1 || got[maxPrinted] != "and 4900 more" {
		t.Errorf("%d lines, last %q", len(got), got[len(got)-1])
	}
}

// A small file of aliases that would expand to a hundred million values ends at the bound.
func TestAliasBomb(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("upstreams:\n  a.example.com:\n    tags: &t\n")
	for range 10_000 {
		b.WriteString("      - { match: x, fresh: 1h }\n")
	}
	for i := range 10_000 {
		fmt.Fprintf(&b, "  u%d.example.com: { tags: *t }\n", i)
	}
	text := b.String()
	if len(text) > maxFile {
		t.Fatalf("%d bytes: too large to be read at all", len(text))
	}
	got := problems(t, written(t, text))
	if last := got[len(got)-1]; len(got) > 3 || !strings.Contains(last, "expand to too many values") {
		t.Errorf("%d problems, last: %s", len(got), last)
	}
}
