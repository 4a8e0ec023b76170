package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// gate decides who may ask for what (DESIGN section 6).
type gate struct {
	local     bool     // bound to loopback or a unix socket: whoever gets there may ask
	hosts     []string // names that a Host header may carry, beside localhost and IP literals
	tokenFile string
}

// refusal is a status and what the client is told.
type refusal struct {
	status int
	text   string
}

// isLocal tells whether only this machine reaches addr.
func isLocal(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return false
}

// check gives nil if the request may go on.
func (g gate) check(r *http.Request) *refusal {
	if !g.hostAllowed(r.Host) && !(isOpen(r) && isOneLabel(r.Host)) {
		return &refusal{http.StatusMisdirectedRequest,
			fmt.Sprintf("this address is not known here as %q; add the name to admin.hosts if it is yours", cut(r.Host))}
	}
	if g.local || isOpen(r) {
		return nil
	}
	if g.tokenFile == "" {
		return &refusal{http.StatusForbidden,
			"from beyond this machine only /metrics, /healthz and /readyz are open; set admin.token_file to allow more"}
	}
	want, err := readToken(g.tokenFile)
	if err != nil {
		return &refusal{http.StatusForbidden, "admin.token_file cannot be used; see the log"}
	}
	got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !sameSecret(strings.TrimSpace(got), want) {
		return &refusal{http.StatusUnauthorized, "send the token of admin.token_file: Authorization: Bearer ..."}
	}
	return nil
}

// isOpen tells what anybody may read who reaches the port.
func isOpen(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	return r.URL.Path == "/metrics" || r.URL.Path == "/healthz" || r.URL.Path == "/readyz"
}

// hostAllowed keeps a web page from reaching the API under a name of its own
// that resolves to our address (DNS rebinding). Browsers always send Host; the
// health checks of old load balancers, which do not, are no danger.
func (g gate) hostAllowed(host string) bool {
	if host == "" {
		return true
	}
	name := hostName(host)
	if ip, err := netip.ParseAddr(name); err == nil && ip.Zone() == "" { // a zone is any text
		return true
	}
	return name == "localhost" || slices.Contains(g.hosts, name)
}

// isOneLabel tells a name without a dot, such as a container's: no stranger can
// have a page under one. Prometheus in the same compose network asks that way.
func isOneLabel(host string) bool {
	name := hostName(host)
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// hostName is a Host header without its port and brackets, in lower case.
func hostName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// maxToken bounds the token's file, in bytes.
const maxToken = 4096

// readToken reads the token anew each time, so that it can be rotated.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	switch {
	case len(b) > maxToken:
		return "", fmt.Errorf("read token: %s is larger than %d bytes", path, maxToken)
	case token == "":
		return "", fmt.Errorf("read token: %s is empty", path)
	case strings.ContainsAny(token, " \t\r\n"):
		return "", errors.New("read token: " + path + " holds more than one word")
	}
	return token, nil
}

// sameSecret compares in a time that tells nothing of either.
func sameSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// cut bounds text from outside that is repeated in an answer.
func cut(s string) string { return s[:min(len(s), 100)] }
