package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"cistern/internal/oci"
)

// guard decides, at connect time and so after DNS, which addresses an upstream
// may lead to by its own name, by a redirect or by a realm (DESIGN.md section
// 6; the SSRF rows of FAULTS.md 3a).
type guard struct {
	name    string
	setting string // as configured, for the message
	private bool
}

// newGuard reads the setting; auto is private if an endpoint is plain http,
// localhost, a one-label name, or a private or loopback address.
func newGuard(name, setting string, endpoints []*url.URL) (*guard, error) {
	g := &guard{name: name, setting: setting}
	switch setting {
	case "public":
	case "private":
		g.private = true
	case "auto":
		for _, u := range endpoints {
			g.private = g.private || u.Scheme == "http" || inside(u.Hostname())
		}
	default:
		return nil, fmt.Errorf("network: %s is not one of auto, public, private", oci.Quote(setting))
	}
	return g, nil
}

// inside tells whether a host's spelling says that it is not on the Internet.
func inside(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		return addressKind(a) != ""
	}
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost")
}

// refusedError is the guard's no.
type refusedError struct{ addr, kind, name, setting string }

func (e *refusedError) Error() string {
	return fmt.Sprintf("%s is %s, which upstream %s may not lead to (network: %s); if it is meant to, set its network to private", e.addr, e.kind, e.name, e.setting)
}

// check refuses an address or lets it pass.
func (g *guard) check(a netip.Addr) error {
	kind := addressKind(a)
	if kind == "" || g.private && kind != kindLinkLocal && kind != kindMulticast {
		return nil
	}
	return &refusedError{addr: a.String(), kind: kind, name: g.name, setting: g.setting}
}

// control is a net.Dialer's ControlContext.
func (g *guard) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("dial: address: %w", err)
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return fmt.Errorf("dial: address: %w", err)
	}
	return g.check(a)
}

// checkHost is for a host that a proxy resolves: an address or a local name
// can still be seen by its spelling.
func (g *guard) checkHost(host string) error {
	if a, err := netip.ParseAddr(strings.TrimSuffix(host, ".")); err == nil {
		return g.check(a)
	}
	if !g.private && (inside(host) || endsInNumber(host)) {
		return &refusedError{addr: host, kind: "a local name or an address in an odd spelling", name: g.name, setting: g.setting}
	}
	return nil
}

// endsInNumber tells names that some resolvers read as an IPv4 address: 127.1,
// 0x7f.0.0.1.
func endsInNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	_, err := strconv.ParseUint(last, 0, 64)
	return err == nil || strings.Trim(last, "0123456789") == ""
}

// Kinds of addresses, as an operator reads them.
const (
	kindLoopback  = "a loopback address"
	kindPrivate   = "a private address"
	kindLinkLocal = "a link-local or metadata address"
	kindMulticast = "a multicast or reserved address"
	kindSpecial   = "an address for special use"
)

// addressKind names what is not public; "" for a public unicast address.
// IPv4 inside IPv6 is judged as the IPv4 address.
func addressKind(a netip.Addr) string {
	a = embedded(a.Unmap().WithZone(""))
	for _, m := range metadata() {
		if a == m {
			return kindLinkLocal
		}
	}
	switch {
	case a.IsLoopback(), a.IsUnspecified():
		return kindLoopback
	case a.IsLinkLocalUnicast():
		return kindLinkLocal
	case a.IsMulticast():
		return kindMulticast
	case a.IsPrivate():
		return kindPrivate
	}
	for _, s := range specialRanges() {
		if s.prefix.Contains(a) {
			return s.kind
		}
	}
	return ""
}

// embedded gives the IPv4 address that NAT64, 6to4 and the old compatible form
// carry, since a gateway would deliver to it.
func embedded(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return a
	}
	b := a.As16()
	switch {
	case netip.PrefixFrom(addr16(0x00, 0x64, 0xff, 0x9b), 96).Contains(a), // 64:ff9b::/96
		netip.PrefixFrom(addr16(0x00, 0x64, 0xff, 0x9b, 0x00, 0x01), 48).Contains(a): // 64:ff9b:1::/48
		return netip.AddrFrom4([4]byte(b[12:16]))
	case b[0] == 0x20 && b[1] == 0x02: // 2002::/16
		return netip.AddrFrom4([4]byte(b[2:6]))
	case netip.PrefixFrom(addr16(), 96).Contains(a) && !a.IsLoopback() && !a.IsUnspecified(): // ::/96
		return netip.AddrFrom4([4]byte(b[12:16]))
	}
	return a
}

func addr16(head ...byte) netip.Addr {
	var b [16]byte
	copy(b[:], head)
	return netip.AddrFrom16(b)
}

// metadata are the cloud services that hand out credentials to whoever asks
// from the machine, where they are not in 169.254.0.0/16.
func metadata() []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{100, 100, 100, 200}),                          // Alibaba
		netip.AddrFrom4([4]byte{168, 63, 129, 16}),                            // Azure
		netip.AddrFrom4([4]byte{192, 0, 0, 192}),                              // Oracle
		addr16(0xfd, 0x00, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x54), // AWS
	}
}

type specialRange struct {
	prefix netip.Prefix
	kind   string
}

// specialRanges are those of the IANA special-purpose registries that netip
// has no question for.
func specialRanges() []specialRange {
	v4 := func(a, b, c, d byte, bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, c, d}), bits)
	}
	return []specialRange{
		{v4(0, 0, 0, 0, 8), kindLoopback},
		{v4(100, 64, 0, 0, 10), kindPrivate}, // carrier-grade NAT
		{v4(192, 0, 0, 0, 24), kindSpecial},
		{v4(192, 0, 2, 0, 24), kindSpecial}, // documentation, also the next two
		{v4(198, 51, 100, 0, 24), kindSpecial},
		{v4(203, 0, 113, 0, 24), kindSpecial},
		{v4(198, 18, 0, 0, 15), kindPrivate}, // benchmarks
		{v4(240, 0, 0, 0, 4), kindMulticast},
		{netip.PrefixFrom(addr16(0xfe, 0xc0), 10), kindPrivate}, // site-local
		{netip.PrefixFrom(addr16(0x01, 0x00), 64), kindSpecial}, // discard
		{netip.PrefixFrom(addr16(0x20, 0x01), 32), kindSpecial}, // Teredo
		{netip.PrefixFrom(addr16(0x20, 0x01, 0x0d, 0xb8), 32), kindSpecial},
	}
}
