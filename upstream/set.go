package upstream

// Set is the configured upstreams, by name. It does not change once made and
// is safe for concurrent use.
type Set struct {
	list   []*Upstream
	byName map[string]*Upstream
}

// NewSet makes a set; of two with one name the later one wins Get.
func NewSet(us ...*Upstream) *Set {
	s := &Set{list: us, byName: make(map[string]*Upstream, len(us))}
	for _, u := range us {
		s.byName[u.Name()] = u
	}
	return s
}

// Get finds an upstream by its configured name; aliases are the caller's matter.
func (s *Set) Get(name string) (*Upstream, bool) {
	u, ok := s.byName[name]
	return u, ok
}

// All lists the upstreams in the order given.
func (s *Set) All() []*Upstream { return s.list }

// Close closes all of them.
func (s *Set) Close() {
	for _, u := range s.list {
		u.Close()
	}
}
