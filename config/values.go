package config

import (
	"errors"
	"math"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// minRate is the smallest rate that is not taken for a forgotten unit, in bytes per second.
const minRate = 16 << 10

// minMaxSize is the smallest cap that is not taken for a forgotten unit, in bytes.
const minMaxSize = 1 << 20

// quoted is a value as it stands in a message: never longer than a line, never with control characters, and not at all
// if it may be a URL with a password in it.
func quoted(s string) string {
	if strings.Contains(s, "@") {
		return "the value"
	}
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "..."
	}
	return strconv.Quote(s)
}

// parseSize reads bytes with an optional unit: GiB is 2^30, GB is 10^9, a bare number is bytes.
func parseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(strings.TrimSpace(s))
	if err != nil || n > math.MaxInt64 {
		return 0, flaw{quoted(s) + " is not a size", "write a number and a unit, such as 50GiB or 500MB"}
	}
	return int64(n), nil
}

// parseMaxSize reads the cap. 0 switches it off; a few bytes are a forgotten unit.
func parseMaxSize(s string) (int64, error) {
	n, err := parseSize(s)
	if err != nil {
		return 0, err
	}
	if n > 0 && n < minMaxSize {
		return 0, flaw{quoted(s) + " is less than 1 MiB", "write the unit, such as 50GiB"}
	}
	return n, nil
}

// parseRate reads bytes per second. 0 means no bound. Bits are told by nothing but their letter, which is easily
// mistaken, so they are refused.
func parseRate(s string) (int64, error) {
	n, err := parseSize(strings.TrimSuffix(strings.TrimSpace(s), "/s"))
	switch {
	case err != nil:
		return 0, flaw{quoted(s) + " is not a rate", "write bytes per second, such as 12MB for 100 Mbit/s; 0 for none"}
	case n > 0 && n < minRate:
		return 0, flaw{quoted(s) + " is less than 16 KiB a second", "write the unit, such as 12MB"}
	}
	return n, nil
}

// parseMinFree reads bytes or a percentage.
func parseMinFree(s string) (MinFree, error) {
	number, ok := strings.CutSuffix(strings.TrimSpace(s), "%")
	if !ok {
		n, err := parseSize(s)
		if err != nil {
			return MinFree{}, flaw{quoted(s) + " is neither a size nor a percentage", "write 5GiB, or 5%"}
		}
		return MinFree{Bytes: n}, nil
	}
	p, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(p >= 0 && p < 100) {
		return MinFree{}, flaw{quoted(s) + " is not a percentage", "write 0% to 99%"}
	}
	return MinFree{Percent: p}, nil
}

// dayPart finds the days that time.ParseDuration does not know.
var dayPart = regexp.MustCompile(`^(\d{1,6})d(.*)$`)

// parseDuration reads a Go duration that may start with days: 7d, 1d12h, 90s. It is never negative.
func parseDuration(s string) (time.Duration, error) {
	bad := flaw{quoted(s) + " is not a duration", "write a number and a unit, such as 30s, 5m, 24h or 7d"}
	rest, days := strings.TrimSpace(s), time.Duration(0)
	if m := dayPart.FindStringSubmatch(rest); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil || int64(n) > math.MaxInt64/int64(24*time.Hour) {
			return 0, bad
		}
		days, rest = time.Duration(n)*24*time.Hour, m[2]
		if rest == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || strings.HasPrefix(rest, "+") || days+d < 0 {
		return 0, bad
	}
	return days + d, nil
}

// countUpTo reads a whole number from 1 to limit.
func countUpTo(limit int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > limit {
			return 0, flaw{quoted(s) + " is not a count", "write a whole number from 1 to " + strconv.Itoa(limit)}
		}
		return n, nil
	}
}

// pathIn reads a path relative to base.
func pathIn(base string) func(string) (string, error) {
	return func(s string) (string, error) {
		switch {
		case s == "":
			return "", flaw{"is an empty path", "write a path, or leave the key out"}
		case strings.ContainsRune(s, 0):
			return "", flaw{"a path cannot hold a zero byte", "write a plain path"}
		case s == "~" || strings.HasPrefix(s, "~/"):
			return "", flaw{"~ is not expanded", "write the whole path"}
		default:
			return absolute(base, s), nil
		}
	}
}

// parseListen reads the address of a TCP listener.
func parseListen(s string) (string, error) {
	const fix = `write host:port, or ":5000" for every address of this machine`
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if _, err := strconv.ParseUint(s, 10, 16); err == nil {
			return "", flaw{quoted(s) + " is a port, not an address", `write ":` + s + `"`}
		}
		return "", flaw{quoted(s) + " is not an address to listen on", fix}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", flaw{quoted(s) + " has no port number from 0 to 65535", fix}
	}
	if host != "" && !isHost(strings.ToLower(host)) && net.ParseIP(withoutZone(host)) == nil {
		return "", flaw{quoted(s) + " has a host that is neither a name nor an IP address", fix}
	}
	return s, nil
}

// withoutZone cuts the interface off a link-local IPv6 address.
func withoutZone(host string) string {
	ip, _, _ := strings.Cut(host, "%")
	return ip
}

// parseAdminListen reads an address, a unix socket or off.
func parseAdminListen(s, base string) (string, error) {
	if s == AdminOff {
		return s, nil
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		p, err := pathIn(base)(path)
		if err == nil && len(p) > maxSocketPath {
			err = flaw{"the path of the socket is longer than " + strconv.Itoa(maxSocketPath) + " bytes", "choose a shorter one; the kernel allows no more"}
		}
		return "unix:" + p, err
	}
	addr, err := parseListen(s)
	var f flaw
	if errors.As(err, &f) && !strings.HasPrefix(f.fix, `write ":`) {
		f.fix = `write host:port (port 0: any free one), "unix:/path" or "off"`
		return "", f
	}
	return addr, err
}

// maxSocketPath is what fits into sun_path with its closing zero.
const maxSocketPath = 107

// parseHost reads host or host:port, a name or an IP address, and gives it in lower case.
func parseHost(s string) (string, error) {
	h := strings.ToLower(s)
	host, port, hasPort := splitPort(h)
	if !isHost(host) || hasPort && !isPort(port) {
		return "", flaw{quoted(s) + " is not a host", "write a name or address, with :port where it is not the usual one, without https://"}
	}
	return h, nil
}

// parseEndpoint reads the base URL of an endpoint. Its messages never repeat what may hold a password.
func parseEndpoint(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", flaw{"is not a URL", `write "https://registry.example.com"`}
	case u.User != nil || strings.Contains(u.Host, "@"):
		return "", flaw{"holds a user name or password", "move them to username and password_file"}
	case u.Scheme != "http" && u.Scheme != "https":
		return "", flaw{quoted(s) + " does not start with https:// or http://", "write the scheme; plain HTTP is used only where it is written"}
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return "", flaw{quoted(s) + " has a query or a fragment", "write scheme, host and path alone"}
	}
	host, port, hasPort := splitPort(strings.ToLower(u.Host))
	if !isHost(host) || hasPort && !isPort(port) {
		return "", flaw{quoted(s) + " has no proper host", `write "https://registry.example.com"`}
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	if path == "/v2" || strings.HasSuffix(path, "/v2") {
		return "", flaw{quoted(s) + " ends in /v2", "leave that out; it is added to every endpoint"}
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + path, nil
}
