package proxy

import (
	"strings"

	"cistern/cache"
	"cistern/internal/oci"
	"cistern/proxy/savings"
	"cistern/upstream"
)

// Upstream is a configured upstream and how long its tags stay fresh.
type Upstream struct {
	Client *upstream.Upstream
	Policy cache.Policy
}

// dockerHub is the upstream whose repositories without a namespace are in
// library/ (P 2.36).
const dockerHub = "docker.io"

// target is what a request is for.
type target struct {
	up     *Upstream
	index  int    // of the upstream among the configured ones
	repo   string // its repository, in upstream's own name
	direct bool   // the client named the upstream in the path: it has no other source
	via    string // what upstream is told that the request came through
	book   *savings.Book
}

// routes is what requests are resolved by. It does not change.
type routes struct {
	upstreams []Upstream
	byName    map[string]int
	aliases   map[string]string
	standard  string // the default upstream; "" if there is none
	hop, via  string // this process, and what upstream is told of it
	book      *savings.Book
}

func newRoutes(ups []Upstream, standard string, aliases map[string]string, book *savings.Book) *routes {
	rt := &routes{upstreams: ups, byName: map[string]int{}, aliases: aliases, standard: standard, hop: newHop(), book: book}
	rt.via = "1.1 " + rt.hop
	for i, u := range ups {
		rt.byName[u.Client.Name()] = i
	}
	return rt
}

// lookup finds a configured upstream by its name or an alias of it (P 2.32).
func (rt *routes) lookup(name string) (int, bool) {
	if a, ok := rt.aliases[name]; ok {
		name = a
	}
	i, ok := rt.byName[name]
	return i, ok
}

// resolve decides which upstream a request is for: by ns, by a prefix before
// /v2, by a host as the first segment of the name, or the default one. All that
// are given must agree (P 2.31 to 2.36). Nothing here dials. host is the
// request's own Host: an ns that names ourselves says nothing.
func (rt *routes) resolve(r oci.Request, host string) (target, error) {
	ns := r.Namespace
	if ns == host {
		ns = ""
	}
	chosen := -1
	for _, name := range []string{ns, r.Prefix} {
		if name == "" {
			continue
		}
		i, ok := rt.lookup(name)
		if !ok || chosen >= 0 && chosen != i {
			return target{}, unknownUpstream(name)
		}
		chosen = i
	}
	named := chosen >= 0
	t := target{repo: r.Name, via: rt.via, book: rt.book}
	if first, rest, ok := r.SplitHost(); ok {
		i, known := rt.lookup(first)
		switch {
		case known && (chosen < 0 || chosen == i):
			chosen, t.repo, t.direct = i, rest, !named
		case known || !named || !oci.ValidName(r.Name):
			return target{}, unknownUpstream(first)
		}
	}
	if chosen < 0 {
		i, ok := rt.lookup(rt.standard)
		if !ok {
			return target{}, unknownUpstream("")
		}
		chosen = i
	}
	t.index, t.up = chosen, &rt.upstreams[chosen]
	if t.up.Client.Name() == dockerHub && !strings.Contains(t.repo, "/") {
		t.repo = "library/" + t.repo
	}
	return t, nil
}

func unknownUpstream(name string) error {
	if name == "" {
		return &oci.Error{Code: oci.CodeNameUnknown, Message: "no upstream is named in the request and there is no default one: set default_upstream"}
	}
	return &oci.Error{Code: oci.CodeNameUnknown, Message: "upstream " + oci.Quote(name) + " is not configured here: add it under upstreams, or with --upstream"}
}

func (t target) repository() oci.Repository {
	return oci.Repository{Upstream: t.up.Client.Name(), Name: t.repo}
}

// handle is what the cache needs to serve the repository.
func (t target) handle() *cache.Repository {
	return &cache.Repository{Repository: t.repository(), Source: t.source(), Policy: &t.up.Policy}
}

func (t target) source() source { return source{t.up.Client, t.repo, t.via, t.book} }
