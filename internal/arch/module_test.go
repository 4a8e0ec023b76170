package arch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// requirements are the modules that may be required directly, with what each is here for. Another one needs a line here and a
// record in docs/decisions/ that says why.
var requirements = map[string]string{
	"github.com/cenkalti/backoff/v5":       "pauses between tries",
	"github.com/coreos/go-systemd/v22":     "readiness, socket activation",
	"github.com/distribution/reference":    "image names on the command line",
	"github.com/dustin/go-humanize":        "sizes",
	"github.com/hashicorp/golang-lru/v2":   "small objects, tokens, negative answers",
	"github.com/minio/minio-go/v7":         "the shared tier",
	"github.com/opencontainers/go-digest":  "digests",
	"github.com/opencontainers/image-spec": "media types, annotations",
	"github.com/prometheus/client_golang":  "metrics",
	"github.com/rogpeppe/go-internal":      "testscript",
	"github.com/sony/gobreaker/v2":         "breakers before upstreams",
	"github.com/spf13/cobra":               "the command line",
	"github.com/vbauerster/mpb/v8":         "progress bars",
	"go.etcd.io/bbolt":                     "the index",
	"go.uber.org/zap":                      "logs",
	"go.yaml.in/yaml/v3":                   "the configuration file",
	"golang.org/x/net":                     "proxies from the environment",
	"golang.org/x/sync":                    "singleflight, errgroup",
	"golang.org/x/sys":                     "system calls that syscall lacks",
	"golang.org/x/time":                    "rate",
	"oras.land/oras-go/v2":                 "docker credentials and their helpers",
	"pgregory.net/rapid":                   "properties in tests",
}

func TestRequirements(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	direct := 0
	for _, path := range required(string(text)) {
		direct++
		if requirements[path] == "" {
			t.Errorf("go.mod requires %s, which is not among the libraries chosen for this project", path)
		}
	}
	if direct == 0 {
		t.Error("found no requirement in go.mod: the reader of this test is wrong")
	}
}

// required are the direct requirements in the text of a go.mod.
func required(text string) []string {
	var out []string
	block := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "require (":
			block = true
		case line == ")":
			block = false
		case strings.HasSuffix(line, "// indirect"), line == "", strings.HasPrefix(line, "//"):
		case block, strings.HasPrefix(line, "require "):
			out = append(out, strings.Fields(strings.TrimPrefix(line, "require "))[0])
		}
	}
	return out
}
