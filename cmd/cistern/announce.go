package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"cistern/config"
	"cistern/internal/listener"
)

// announce prints what a person needs to go on: where the daemon listens, what
// to put into daemon.json, and what the cache may take.
func (d *daemon) announce(w io.Writer) {
	admin := "off"
	if d.adminAt != nil {
		admin = adminAddress(d.adminAt.Addr())
	}
	fmt.Fprintf(w, "cistern %s listens on %s (admin: %s)\n", version, d.registry.Addr(), admin)
	if d.conf.DefaultUpstream == "docker.io" {
		fmt.Fprintf(w, "for Docker, in /etc/docker/daemon.json: {\"registry-mirrors\": [%q]}\n", mirrorURL(d.conf, d.registry.Addr()))
	} else {
		fmt.Fprintf(w, "registry clients find it at %s\n", mirrorURL(d.conf, d.registry.Addr()))
	}
	s := d.cache.Stats()
	room := "without a cap"
	if s.Limit > 0 {
		room = "of " + humanize.IBytes(uint64(s.Limit))
	}
	var chosen []string
	if d.conf.Cache.DirDefaulted {
		chosen = append(chosen, "--cache-dir")
	}
	if d.conf.Cache.SizeDefaulted {
		chosen = append(chosen, "--cache-size")
	}
	fmt.Fprintf(w, "cache: %s, %s used %s", d.conf.Cache.Dir, humanize.IBytes(uint64(max(0, s.Bytes))), room)
	if len(chosen) > 0 {
		fmt.Fprintf(w, " (chosen for you; %s to change)", strings.Join(chosen, ", "))
	}
	fmt.Fprintln(w)
}

// mirrorURL is how clients reach the listener: by its address, or by this
// machine's name where it listens on all of them.
func mirrorURL(conf *config.Config, addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return addr.String()
	}
	host, _, err := net.SplitHostPort(conf.Listen)
	if ip := net.ParseIP(host); err != nil || host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			host = "localhost"
		}
	}
	return scheme(conf) + net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

func scheme(conf *config.Config) string {
	if conf.TLS.Enabled() {
		return "https://"
	}
	return "http://"
}

// pageAddress is what the page at / tells clients to use; "" for what the
// browser used, which is right unless TLS comes in.
func pageAddress(conf *config.Config, addr net.Addr) string {
	if !conf.TLS.Enabled() {
		return ""
	}
	return mirrorURL(conf, addr)
}

// adminAddress is what --admin takes.
func adminAddress(addr net.Addr) string {
	if addr.Network() == "unix" {
		return listener.UnixPrefix + addr.String()
	}
	return addr.String()
}

// adminHosts are the names that the admin listener answers to.
func adminHosts(a config.Admin) []string {
	hosts := append([]string(nil), a.Hosts...)
	if host, _, err := net.SplitHostPort(a.Listen); err == nil && host != "" {
		hosts = append(hosts, strings.ToLower(host))
	}
	return hosts
}

// warn says in plain words what an operator may not have meant.
func (d *daemon) warn(getenv func(string) string) {
	for _, u := range d.conf.Upstreams {
		if u.Credentials.IsZero() {
			continue
		}
		d.log.Warn(fmt.Sprintf("everyone who reaches %s reads what %s may read at %s", d.registry.Addr(), accountOf(u.Credentials), u.Name))
		if u.Credentials.Docker {
			continue // its helpers may take their time
		}
		if _, err := password(u.Credentials, getenv); err != nil {
			d.log.Warn("pulls from "+u.Name+" fail until this is mended", zap.Error(err))
		}
	}
	if d.looseDir {
		d.log.Warn("other users may write to the cache directory: chmod go-w " + d.conf.Cache.Dir)
	}
	if d.adminAt == nil || isLocal(d.adminAt.Addr()) {
		return
	}
	if d.conf.Admin.TokenFile == "" {
		d.log.Warn("the admin address is open to other machines for /metrics, /healthz and /readyz; for more, set admin.token_file", zap.Stringer("admin", d.adminAt.Addr()))
		return
	}
	if _, err := readSecret(d.conf.Admin.TokenFile); err != nil {
		d.log.Warn("no admin call is accepted until this is mended", zap.String("token_file", d.conf.Admin.TokenFile), zap.Error(err))
	}
}

func isLocal(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}
