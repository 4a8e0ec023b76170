package listener

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// inUse is the error for an address that somebody else listens on. It names
// the program where /proc tells, and else the command that does.
func inUse(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("listen on %s: address already in use", address)
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		return fmt.Errorf("listen on %s: address already in use", address)
	}
	if who := holder("/proc", n); who != "" {
		return fmt.Errorf("listen on %s: port %d is in use by %s; stop it, or choose another address", address, n, who)
	}
	return fmt.Errorf("listen on %s: port %d is in use by another program; see which with: ss -ltnp 'sport = :%d'", address, n, n)
}

// holder names the program that listens on a TCP port, "nginx (pid 812)", or
// gives "" where proc does not tell: another user's process, another namespace.
func holder(proc string, port int) string {
	inodes := map[string]bool{}
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(filepath.Join(proc, "net", table))
		if err != nil {
			continue
		}
		listening(f, port, inodes)
		f.Close()
	}
	if len(inodes) == 0 {
		return ""
	}
	fds, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[target] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		// A process chooses its own name: it must not forge a line.
		return fmt.Sprintf("%s (pid %s)", strings.Trim(strconv.Quote(strings.TrimSpace(string(name))), `"`), filepath.Base(dir))
	}
	return ""
}

// listening adds the sockets of a table like /proc/net/tcp that listen on
// port, in the form in which /proc/PID/fd shows them.
func listening(table io.Reader, port int, inodes map[string]bool) {
	const listen = "0A"
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != listen {
			continue
		}
		_, hex, ok := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); ok && err == nil && int(n) == port {
			inodes["socket:["+f[9]+"]"] = true
		}
	}
}
