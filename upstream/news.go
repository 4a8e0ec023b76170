package upstream

import "sync"

// news wakes the calls that wait while every breaker is open.
type news struct {
	mu     sync.Mutex // guards what follows
	change chan struct{}
	failed uint64 // probes that found upstream still down
	last   error
}

func newNews() *news { return &news{change: make(chan struct{})} }

// state gives a channel that is closed at the next change.
func (n *news) state() (changed <-chan struct{}, failed uint64, last error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.change, n.failed, n.last
}

// tell announces that a breaker may have changed; probeFailed that the probe
// which the others wait for came back with err.
func (n *news) tell(probeFailed bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if probeFailed {
		n.failed++
	}
	if err != nil {
		n.last = err
	}
	close(n.change)
	n.change = make(chan struct{})
}
