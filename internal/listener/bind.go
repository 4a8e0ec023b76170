package listener

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// keepAlive is how long a connection may be silent before it is probed, and
// the time between probes.
const keepAlive = 15 * time.Second

// UnixPrefix in front of an absolute path makes an address a unix socket.
const UnixPrefix = "unix:"

// bind opens the socket of an address: host:port, or "unix:" and a path.
func bind(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, UnixPrefix); ok {
		return bindUnix(path)
	}
	conf := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive}}
	ln, err := conf.Listen(context.Background(), "tcp", address)
	switch {
	case err == nil:
		return ln, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, inUse(address)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen on %s: permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: no interface of this machine has that address; see `ip addr`", address)
	}
	return nil, fmt.Errorf("listen on %s: %w", address, err)
}

// bindUnix opens a unix socket that only this user may connect to. A socket
// that a dead process left behind is replaced, a live one is not.
func bindUnix(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s%s: %w", UnixPrefix, path, err)
	}
	// The mode of a socket is what the umask leaves, from its first moment;
	// a chmod afterwards would come late.
	old := syscall.Umask(0o077)
	ln, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s%s: %w", UnixPrefix, path, err)
	}
	return ln, nil
}

// removeStale unlinks the socket at path if nobody answers there.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return errors.New("there is something else than a socket; remove it or choose another path")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return errors.New("another process listens there; stop it or choose another path")
	}
	return os.Remove(path)
}
