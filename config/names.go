package config

import (
	"net"
	"regexp"
	"strconv"
	"strings"
)

var (
	// hostName is a DNS name or an IPv4 address, in lower case. Underscores are no DNS, but compose services have them.
	hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*\.?$`)
	// envVar is a portable name of an environment variable.
	envVar = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// maxHost is the longest host name DNS knows.
const maxHost = 253

// isHost accepts a name in lower case, an IPv4 address, or an IPv6 address in brackets.
func isHost(s string) bool {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && strings.Contains(inner, ":") && net.ParseIP(inner) != nil
	}
	return len(s) <= maxHost && hostName.MatchString(s)
}

// isPort accepts 1 to 65535.
func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// splitPort parts host:port at the last colon outside brackets.
func splitPort(s string) (host, port string, hasPort bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || i < strings.LastIndexByte(s, ']') {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// isLabel reports whether an upstream's name is no host: nothing in it that would make a path segment one (P 2.34).
func isLabel(name string) bool {
	return !strings.ContainsAny(name, ".:") && name != "localhost"
}

// parseUpstreamName reads the name of an upstream in its canonical form: lower case, and one name for Docker Hub (P 2.32).
func parseUpstreamName(s string) (string, error) {
	name := strings.ToLower(s)
	if strings.Contains(name, "/") {
		return "", flaw{quoted(s) + " is not the name of an upstream", "write the registry's host alone; a URL goes to endpoints"}
	}
	host, port, hasPort := splitPort(name)
	if host = strings.TrimSuffix(host, "."); !isHost(host) || hasPort && !isPort(port) {
		return "", flaw{quoted(s) + " is not the name of an upstream", "write the registry's host[:port], or a label of letters, digits, - and _"}
	}
	if name = host; hasPort {
		name += ":" + port
	}
	switch name {
	case "index.docker.io", "registry-1.docker.io":
		return DefaultUpstreamName, nil
	default:
		return name, nil
	}
}
