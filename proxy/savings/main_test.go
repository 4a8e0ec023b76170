package savings

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"cistern/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// paper is a Store in memory that refuses on request.
type paper struct {
	mu      sync.Mutex // guards all below
	notes   map[string][]byte
	writes  int
	refuses bool
}

func newPaper() *paper { return &paper{notes: map[string][]byte{}} }

func (p *paper) Note(name string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	data, ok := p.notes[name]
	if !ok {
		return nil, fmt.Errorf("read %s: %w", name, fs.ErrNotExist)
	}
	return data, nil
}

func (p *paper) WriteNote(name string, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuses {
		return errors.New("read-only")
	}
	p.notes[name] = data
	p.writes++
	return nil
}

func (p *paper) refuse(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = yes
}

// written is how often something was written.
func (p *paper) written() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writes
}

// watched is a log, and what is in it.
func watched() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.InfoLevel)
	return zap.New(core), logs
}

// sent is a Tally of so many bytes to clients.
func sent(n uint64) Tally { return Tally{Sent: n} }
