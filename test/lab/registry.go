package lab

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// A Registry is a running distribution registry: the origin of a test.
type Registry struct {
	*Process
	Addr string
	URL  string
}

// RegistryOptions say how a registry differs from an open one.
type RegistryOptions struct {
	// Username and Password, if set, are asked for by a Basic challenge (htpasswd).
	Username, Password string
	// Mirror, if set, makes it a pull-through cache of that URL.
	Mirror string
}

// StartRegistry starts a distribution registry on loopback over a folder of its own and waits until it answers.
func StartRegistry(t testing.TB, o RegistryOptions) *Registry {
	t.Helper()
	dir, addr := Dir(t), Addr()
	config := "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n" +
		"storage:\n  filesystem: {rootdirectory: " + filepath.Join(dir, "data") + "}\n  delete: {enabled: true}\n" +
		"http: {addr: '" + addr + "', secret: lab}\n"
	status := http.StatusOK
	if o.Mirror != "" {
		config += "proxy: {remoteurl: '" + o.Mirror + "'}\n"
	}
	if o.Username != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "htpasswd")
		Write(t, file, fmt.Sprintf("%s:%s\n", o.Username, hash))
		config += "auth: {htpasswd: {realm: lab, path: " + file + "}}\n"
		status = http.StatusUnauthorized
	}
	file := filepath.Join(dir, "config.yml")
	Write(t, file, config)
	cmd := exec.Command(Tool(t, "registry"), "serve", file)
	// Without these it posts traces and metrics to localhost.
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none")
	r := &Registry{Process: Start(t, "registry", cmd), Addr: addr, URL: "http://" + addr}
	Eventually(t, 20*time.Second, r.Process, Answers(r.URL+"/v2/", status))
	return r
}

// Write puts text into a file that only its owner reads.
func Write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
