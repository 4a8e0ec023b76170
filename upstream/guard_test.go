package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"cistern/internal/oci"
)

func TestGuardTable(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		addr            string
		public, private bool // passes as
	}{
		{"8.8.8.8", true, true},
		{"104.16.99.215", true, true},
		{"2606:4700::6810:63d7", true, true},
		{"::ffff:8.8.8.8", true, true},
		{"64:ff9b::808:808", true, true},
		{"2002:808:808::1", true, true},
		{"172.15.255.255", true, true},
		{"172.32.0.0", true, true},
		{"100.63.255.255", true, true},
		{"100.128.0.0", true, true},
		{"192.167.255.255", true, true},
		{"11.0.0.0", true, true},
		{"127.0.0.1", false, true},
		{"127.255.255.254", false, true},
		{"0.0.0.0", false, true},
		{"0.1.2.3", false, true},
		{"::", false, true},
		{"::1", false, true},
		{"::ffff:127.0.0.1", false, true},
		{"::ffff:7f00:1", false, true},
		{"::127.0.0.1", false, true},
		{"64:ff9b::127.0.0.1", false, true},
		{"64:ff9b:1::10.0.0.1", false, true},
		{"2002:7f00:1::", false, true},
		{"10.0.0.1", false, true},
		{"172.16.0.1", false, true},
		{"172.31.255.255", false, true},
		{"192.168.1.1", false, true},
		{"::ffff:192.168.1.1", false, true},
		{"100.64.0.1", false, true},
		{"100.127.255.255", false, true},
		{"198.18.0.1", false, true},
		{"192.0.2.1", false, true},
		{"203.0.113.9", false, true},
		{"fc00::1", false, true},
		{"fd12:3456::1", false, true},
		{"fec0::1", false, true},
		{"2001:db8::1", false, true},
		{"2001::1", false, true},
		{"169.254.169.254", false, false},
		{"::ffff:169.254.169.254", false, false},
		{"64:ff9b::a9fe:a9fe", false, false},
		{"169.254.0.1", false, false},
		{"fe80::1", false, false},
		{"fe80::1%eth0", false, false},
		{"fd00:ec2::254", false, false},
		{"100.100.100.200", false, false},
		{"168.63.129.16", false, false},
		{"192.0.0.192", false, false},
		{"224.0.0.1", false, false},
		{"ff02::1", false, false},
		{"255.255.255.255", false, false},
		{"240.0.0.1", false, false},
	} {
		a := netip.MustParseAddr(tc.addr)
		for setting, passes := range map[string]bool{"public": tc.public, "private": tc.private} {
			g := &guard{name: "up", setting: setting, private: setting == "private"}
			err := g.control(t.Context(), "tcp", net.JoinHostPort(a.String(), "443"), nil)
			if (err == nil) != passes {
				t.Errorf("%s as %s: %v", tc.addr, setting, err)
			}
			if err != nil {
				contains(t, err, "network", "up")
			}
		}
	}
}

func TestGuardAuto(t *testing.T) {
	t.Parallel()
	for endpoints, private := range map[string]bool{
		"https://registry-1.docker.io":                     false,
		"https://8.8.8.8":                                  false,
		"https://registry.example.com.:8443":               false,
		"http://registry.example.com":                      true,
		"https://registry":                                 true,
		"https://localhost:5000":                           true,
		"https://reg.localhost":                            true,
		"https://10.0.0.5:5000":                            true,
		"https://[::1]:5000":                               true,
		"https://registry.example.com https://192.168.1.2": true,
	} {
		var urls []*url.URL
		for e := range strings.FieldsSeq(endpoints) {
			urls = append(urls, parseURL(t, e))
		}
		g, err := newGuard("up", "auto", urls)
		if err != nil || g.private != private {
			t.Errorf("%s: private %v, want %v (%v)", endpoints, g.private, private, err)
		}
	}
	if _, err := newGuard("up", "intern", nil); err == nil {
		t.Error("an unknown setting is accepted")
	}
}

// TestGuardDials: whatever way a loopback address is written, a public
// upstream does not get there, and the listener sees no connection.
func TestGuardDials(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{
		"127.0.0.1", "localhost", "LOCALHOST", "127.1", "0", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "0x7f000001",
		"[::ffff:127.0.0.1]", "[::1]", "[::]", "0.0.0.0", "127.0.0.1.", "[::ffff:7f00:1]",
	} {
		u := open(t, Options{Endpoints: []string{"https://" + host + ":" + port}, Network: "public", ConnectTimeout: 2 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := u.Resolve(ctx, "a/b", "latest")
		cancel()
		if !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("%s: %v", host, err)
		}
		if strings.Contains(host, "127.0.0.1") && !strings.HasSuffix(host, ".") {
			contains(t, err, "network")
		}
	}
	if err := l.(*net.TCPListener).SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if c, err := l.Accept(); err == nil {
		_ = c.Close()
		t.Error("the listener was reached")
	}
}

// TestGuardRebinding: a name that resolves to a public address first and to
// 127.0.0.1 behind it is refused at the second.
func TestGuardRebinding(t *testing.T) {
	t.Parallel()
	resolver := dnsServer(t, [][4]byte{{203, 0, 113, 1}, {127, 0, 0, 1}})
	g := &guard{name: "up", setting: "public"}
	var tried []string
	d := &net.Dialer{Resolver: resolver, FallbackDelay: -1, ControlContext: func(ctx context.Context, network, address string, _ syscall.RawConn) error {
		tried = append(tried, address)
		return g.control(ctx, network, address, nil)
	}}
	_, err := d.DialContext(t.Context(), "tcp", "registry.example.com:443")
	var refused *refusedError
	if !errors.As(err, &refused) || len(tried) != 2 {
		t.Fatalf("tried %v: %v", tried, err)
	}
}

// TestGuardByProxy: a proxy resolves names itself, but what can be seen by its
// spelling is refused before it is asked.
func TestGuardByProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, target := range []string{"http://127.0.0.1/x", "http://localhost/x", "http://169.254.169.254/latest", "http://[::1]:80/x", "http://intern/x", "http://127.1/x", "http://0x7f.0.0.1/x", "http://0177.1/x", "http://2130706433/x", "http://127.0.0.1./x"} {
		w.hosts = map[string]http.Handler{"https://registry.example.com": http.RedirectHandler(strings.Replace(target, "http:", "https:", 1), http.StatusFound)}
		o := w.options("https://registry.example.com")
		o.Network = "auto"
		_, err := open(t, o).Tags(t.Context(), "a/b", -1, "")
		contains(t, err, "network")
	}
	for _, h := range w.hits("") {
		if h.origin != "https://registry.example.com" {
			t.Errorf("asked %s", h.origin)
		}
	}
}

// dnsServer answers every A question with the addresses given, AAAA with none.
func dnsServer(t *testing.T, addrs [][4]byte) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = pc.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				for _, a := range addrs {
					m.Answers = append(m.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: a}})
				}
			}
			if out, err := m.Pack(); err == nil {
				_, _ = pc.WriteTo(out, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}
