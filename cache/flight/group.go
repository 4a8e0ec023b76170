package flight

import "sync"

// Group holds what is in flight, by key, so that whoever asks for the same
// thing joins it. The zero Group is ready to use, and safe for concurrent use.
type Group[K comparable, V any] struct {
	mu sync.Mutex
	m  map[K]V
}

// Join gives what is in flight under key, or what start makes of it. start
// runs with the group locked, so it must not block, and may decline (ok
// false), which leaves the key alone. What was started has to look in the cache
// once more, for this can happen without that look:
//
//  1. A looks in the cache: nothing.
//  2. B's flight ends: its result is put into the cache, B forgets the key.
//  3. A joins: nothing in flight, so A would fetch again what is there.
func (g *Group[K, V]) Join(key K, start func() (v V, ok bool)) (v V, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v, ok := g.m[key]; ok {
		return v, true
	}
	v, ok = start()
	if !ok {
		return v, false
	}
	if g.m == nil {
		g.m = map[K]V{}
	}
	g.m[key] = v
	return v, true
}

// Get gives what is in flight under key.
func (g *Group[K, V]) Get(key K) (V, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v, ok := g.m[key]
	return v, ok
}

// Replace puts v under key, whatever was there.
func (g *Group[K, V]) Replace(key K, v V) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.m[key] = v
}

// Forget ends the joining of key. Whoever has joined keeps what they have.
func (g *Group[K, V]) Forget(key K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.m, key)
}

// All gives what is in flight now.
func (g *Group[K, V]) All() []V {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]V, 0, len(g.m))
	for _, v := range g.m {
		all = append(all, v)
	}
	return all
}
