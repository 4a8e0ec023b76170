package proxy

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"cistern/internal/oci"
)

// maxClients bounds the table of clients: those not heard of for longest go.
const maxClients = 1024

// clients remembers who asks, to answer every user's first question: is the
// mirror used at all, and by whom?
type clients struct {
	lru *lru.Cache[clientKey, *clientEntry]
}

type clientKey struct{ address, agent string }

type clientEntry struct {
	mu        sync.Mutex // guards all below
	c         Client
	upstreams uint64 // bit i: upstream i was asked for
}

func newClients() *clients {
	l, _ := lru.New[clientKey, *clientEntry](maxClients) // fails for sizes below 1 only
	return &clients{l}
}

func (cs *clients) len() int { return cs.lru.Len() }

func (cs *clients) seen(x *exchange, address string) {
	key := clientKey{address, cut256(x.r.UserAgent())}
	e, ok := cs.lru.Get(key)
	if !ok {
		key.agent = strings.Clone(key.agent) // not a part of the request's header block
		key.address = strings.Clone(key.address)
		e = &clientEntry{c: Client{Address: key.address, UserAgent: key.agent, First: x.start}}
		if known, had, _ := cs.lru.PeekOrAdd(key, e); had {
			e = known
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.c.Last = x.start
	e.c.Requests++
	e.c.Bytes += uint64(x.w.bytes)
	if x.target.up == nil {
		return
	}
	if x.target.index < 64 {
		e.upstreams |= 1 << x.target.index
	}
	if !x.pulled() {
		return
	}
	e.c.LastPull = x.start
	if x.req.Kind == oci.KindManifest && x.req.Tag != "" {
		e.c.LastImage = oci.Reference{Repository: x.target.repository(), Tag: x.req.Tag}.String()
	}
}

// Clients lists who has asked since the start, the latest first. The table is
// bounded.
func (h *Handler) Clients() []Client {
	var all []Client
	for _, e := range h.clients.lru.Values() {
		e.mu.Lock()
		c := e.c
		for i, u := range h.routes.upstreams {
			if i < 64 && e.upstreams&(1<<i) != 0 {
				c.Upstreams = append(c.Upstreams, u.Client.Name())
			}
		}
		e.mu.Unlock()
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b Client) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Address, b.Address), strings.Compare(a.UserAgent, b.UserAgent))
	})
	return all
}
