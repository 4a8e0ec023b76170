package upstream

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"cistern/internal/oci"
)

// realms decides where tokens may be asked for, and where the credentials may
// go: the rule that CVE-2026-33540 was about (FAULTS.md 3a, P 4.5).
type realms struct {
	own  []*url.URL      // the endpoints
	more map[string]bool // declared and built-in token hosts, as host:port
}

func newRealms(endpoints []*url.URL, declared []string) (*realms, error) {
	r := &realms{own: endpoints, more: map[string]bool{}}
	for _, u := range endpoints {
		if h := builtinTokenHost(strings.ToLower(u.Hostname())); h != "" {
			r.more[h+":443"] = true
		}
	}
	for _, h := range declared {
		u, err := url.Parse("https://" + h)
		if err != nil || u.Host != h || u.Hostname() == "" {
			return nil, fmt.Errorf("token_hosts: %s: want HOST[:PORT]", oci.Quote(h))
		}
		r.more[authority(u)] = true
		r.more[authorityAs(u, "80")] = true
	}
	return r, nil
}

// builtinTokenHost is the token server of a known registry that does not
// issue tokens on its own host. The others do: ghcr.io, quay.io, gcr.io and
// *-docker.pkg.dev, *.azurecr.io, public.ecr.aws, nvcr.io, cgr.dev,
// registry.redhat.io.
func builtinTokenHost(registry string) string {
	switch registry {
	case "registry-1.docker.io", "index.docker.io", "docker.io", "registry.docker.io":
		return "auth.docker.io"
	case "registry.gitlab.com":
		return "gitlab.com"
	case "docker.elastic.co":
		return "docker-auth.elastic.co"
	}
	return ""
}

// check reads a challenge's realm. trusted tells whether the credentials may
// be sent there; a realm that nothing may be sent to is an error. endpoint is
// the one that named it.
func (r *realms) check(raw string, endpoint *url.URL) (u *url.URL, trusted bool, err error) {
	u, err = url.Parse(raw)
	if err != nil {
		return nil, false, errors.New("the token realm is not a URL")
	}
	host := strings.ToLower(u.Hostname())
	switch {
	case u.Scheme != "https" && u.Scheme != "http", host == "", u.Opaque != "":
		return nil, false, errors.New("the token realm is not an http(s) URL")
	case u.User != nil:
		return nil, false, errors.New("the token realm holds a user name")
	case !plainHost(host):
		return nil, false, fmt.Errorf("the token realm's host %s is not in plain ASCII", oci.Quote(host))
	case u.Scheme == "http" && endpoint.Scheme != "http":
		return nil, false, fmt.Errorf("the token realm at %s is plain http, and the registry is https", u.Host)
	}
	u.Fragment = ""
	return u, r.trusts(u), nil
}

// trusts: https to an endpoint's own origin or a declared host; plain http only
// to the machine of an endpoint that is plain http itself.
func (r *realms) trusts(u *url.URL) bool {
	declared := r.more[authority(u)]
	if u.Scheme == "https" && declared {
		return true
	}
	for _, own := range r.own {
		if sameOrigin(own, u) || declared && own.Scheme == "http" && strings.EqualFold(own.Hostname(), u.Hostname()) {
			return true
		}
	}
	return false
}

// plainHost admits letters, digits, '-', '.', '_' and an IPv6 literal's ':'.
// Everything else in a host is a trick or needs punycode.
func plainHost(h string) bool {
	for i := range len(h) {
		c := h[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte("-._:", c) < 0 {
			return false
		}
	}
	return true
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && authority(a) == authority(b)
}

// authority is host:port in lower case, the port written out.
func authority(u *url.URL) string {
	if u.Scheme == "http" {
		return authorityAs(u, "80")
	}
	return authorityAs(u, "443")
}

func authorityAs(u *url.URL, port string) string {
	if p := u.Port(); p != "" {
		port = p
	}
	return strings.ToLower(u.Hostname()) + ":" + port
}
