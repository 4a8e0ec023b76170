package arch

import (
	"slices"
	"strings"
	"testing"
)

// arrow says which packages of this module the packages at and below a folder may import.
type arrow struct {
	from string
	to   []string // folders; each stands for itself alone, "x/..." for itself and what is below
	why  string
}

// arrows are read in order, the first that matches counts. Leaves that anybody may use are in everybodys.
var arrows = []arrow{
	{"cmd", []string{"..."}, "cmd/ wires everything"},
	{"internal/admin", []string{"internal/admin/...", "internal/listener", "proxy/...", "cache", "upstream", "internal/oci"}, "the admin API reads their Stats"},
	{"internal/metric", []string{"internal/listener", "proxy", "cache", "upstream", "internal/oci"}, "metrics are made of their Stats"},
	{"proxy/savings", nil, "figures only; what they are of is the proxy's business"},
	{"proxy", []string{"proxy/...", "cache", "upstream", "internal/oci"}, "the proxy sees the cache as a whole, not its parts"},
	{"cache/blob", []string{"internal/oci", "internal/durable"}, "files and space: no bbolt, no HTTP"},
	{"cache/index", []string{"internal/oci"}, "records only; it knows no files"},
	{"cache/flight", nil, "one fill, many readers: the standard library only, so that it can be read and tested alone"},
	{"cache/bandwidth", nil, "who may read how much next; it moves no bytes"},
	{"cache/policy", []string{"cache/index"}, "the numbers of eviction; it evicts nothing"},
	{"cache", []string{"cache/blob", "cache/index", "cache/policy", "cache/flight", "cache/bandwidth", "internal/oci", "internal/durable"}, "the cache declares the source it needs and never sees an upstream"},
	{"upstream", []string{"upstream/...", "internal/oci"}, "a registry client; it does not know that there is a cache"},
	{"config", []string{"internal/oci"}, "plain structs; it builds nothing"},
	{"internal/oci", nil, "the vocabulary is below everything"},
	{"internal/durable", nil, "a leaf"},
	{"internal/hist", nil, "a leaf"},
	{"internal/arch", nil, "tests only"},
	{"internal/layout", []string{"internal/oci"}, "archives are files: it knows no cache and no registry"},
	{"internal", []string{"internal/oci"}, "a helper package may know the vocabulary; more needs a line here"},
	{"bench/sim", []string{"bench/...", "cache/index", "cache/policy", "internal/oci"}, "it reckons with the index itself, without files or requests"},
	{"bench", []string{"bench/...", "internal/oci", "internal/hist"}, "the bench measures any proxy by its address, ours is no exception"},
}

// everybodys are leaves without state or output.
var everybodys = []string{"internal/hist"}

// arrowFor is the rule for a package, nil if none is written down.
func arrowFor(dir string) *arrow {
	for i := range arrows {
		if within(dir, arrows[i].from) {
			return &arrows[i]
		}
	}
	return nil
}

// allows reports whether the rule lets its packages import the one at dir.
func (a *arrow) allows(dir string) bool {
	return slices.ContainsFunc(a.to, func(to string) bool {
		if root, ok := strings.CutSuffix(to, "..."); ok {
			root = strings.TrimSuffix(root, "/")
			return root == "" || within(dir, root)
		}
		return dir == to
	})
}

func TestArrows(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, ownModule) {
		rule := arrowFor(f.dir)
		if rule == nil {
			t.Errorf("%s: no rule says what %s may import; add one to arrows", f.path, f.dir)
			continue
		}
		for _, path := range f.imports() {
			dir, ours := strings.CutPrefix(path, modulePath+"/")
			if !ours || rule.allows(dir) || slices.Contains(everybodys, dir) && f.dir != "cache/flight" {
				continue
			}
			t.Errorf("%s imports %s; it may import %v: %s", f.path, dir, rule.to, rule.why)
		}
	}
}

// TestNobodyImportsPrograms: what cmd/ holds is not for others, and the helpers of tests are for tests.
func TestNobodyImportsPrograms(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, func(f *file) bool { return !within(f.dir, "test") }) {
		for _, path := range f.imports() {
			dir := strings.TrimPrefix(path, modulePath+"/")
			if within(dir, "cmd") && !within(f.dir, "cmd") || forTests(dir) && !f.test && !forTests(f.dir) {
				t.Errorf("%s imports %s", f.path, dir)
			}
		}
	}
}

// reserved is a library that only some folders may import.
type reserved struct {
	library string // an import path or the start of one
	only    []string
	why     string
}

var reservations = []reserved{
	{"github.com/prometheus/", []string{"internal/metric"}, "leaves keep plain counters; internal/metric alone turns them into metrics"},
	{"cistern/config", []string{"cmd"}, "packages take their own Options; only cmd/ reads the configuration"},
	{"go.uber.org/zap", []string{"cmd", "proxy", "cache", "internal/admin", "internal/listener"}, "leaf packages do not log, they return errors and count"},
	{"go.etcd.io/bbolt", []string{"cache/index"}, "bbolt kills the process on damaged pages; every call goes through the index's one guard"},
	{"go.yaml.in/", []string{"config"}, "one reader of YAML"},
	{"github.com/spf13/", []string{"cmd", "bench"}, "the command line is wiring"},
	{"github.com/vbauerster/mpb", []string{"cmd"}, "bars are for people"},
	{"github.com/coreos/go-systemd", []string{"cmd", "internal/listener"}, "talking to systemd is wiring"},
	{"github.com/sony/gobreaker", []string{"upstream"}, "breakers stand before upstreams"},
	{"oras.land/", []string{"cmd", "upstream"}, "credentials are read where the client is built"},
	{"github.com/rogpeppe/go-internal", []string{}, "tests only"},
	{"pgregory.net/rapid", []string{}, "tests only"},
	{"testing", []string{}, "tests only"},
	{"C", []string{}, "the binary is static"},
	{"unsafe", []string{"bench"}, "no need for it so far"},
}

// is reports whether an import is of the library: of its packages too, but for those of the standard library.
func (r reserved) is(path string) bool {
	return path == r.library || strings.Contains(r.library, ".") && strings.HasPrefix(path, strings.TrimSuffix(r.library, "/")+"/")
}

// among reports whether the reservation is for folder dir; cache stands for itself alone, not for its parts, which are leaves.
func (r reserved) among(dir string) bool {
	return slices.ContainsFunc(r.only, func(root string) bool {
		return dir == root || root != "cache" && within(dir, root)
	})
}

func TestReservedLibraries(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, ownModule) {
		for _, path := range f.imports() {
			for _, r := range reservations {
				if r.is(path) && !r.among(f.dir) {
					t.Errorf("%s imports %s, which is for %v: %s", f.path, path, r.only, r.why)
				}
			}
		}
	}
}

// TestStandardLibraryOnly holds the packages that promise it.
func TestStandardLibraryOnly(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, func(f *file) bool { return ownModule(f) && withinAny(f.dir, "cache/flight", "internal/hist") }) {
		for _, path := range f.imports() {
			if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") || first == modulePath {
				t.Errorf("%s imports %s: this package is standard library only", f.path, path)
			}
		}
	}
}

// TestNoHTTPBelow: HTTP ends at proxy and upstream. oci's status table may name status codes, and nothing else of it.
func TestNoHTTPBelow(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, func(f *file) bool {
		return ownModule(f) && withinAny(f.dir, "cache", "config", "internal/oci", "internal/durable", "internal/hist")
	}) {
		for _, path := range f.imports() {
			if path == "net/http" && f.dir != "internal/oci" || strings.HasPrefix(path, "net/http/") {
				t.Errorf("%s imports %s: HTTP stays in proxy and upstream", f.path, path)
			}
		}
		f.uses("net/http", func(pos, name string) {
			if !strings.HasPrefix(name, "Status") {
				t.Errorf("%s: http.%s in a package below HTTP: only status codes may be named here", pos, name)
			}
		})
	}
}
