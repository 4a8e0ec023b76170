package savings

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	noteName = "savings.json"
	// asideName is what a note becomes that cannot be read.
	asideName = noteName + ".broken"
	// saveEvery bounds what a process that is killed, or a power cut, costs.
	saveEvery = time.Minute
	// layout is what the note's version says.
	layout = 1
)

// Store is where a book is written down: *cache.Cache. It keeps notes whole, whatever
// happens.
type Store interface {
	// Note reads a note; fs.ErrNotExist if there is none.
	Note(name string) ([]byte, error)
	// WriteNote makes data the note's content, on stable storage.
	WriteNote(name string, data []byte) error
}

// keeper writes a book down. Its goroutine alone uses it, but for stop and done.
type keeper struct {
	store      Store
	log        *zap.Logger
	last       []byte // what was written last
	read       bool   // what was written before is in the book, or put aside
	failing    bool
	stop, done chan struct{} // nil: the book is not written down
}

// Open goes on with the book that is in the store, and writes it down once a minute and
// at Close: a process that is killed loses the last minute. What is no book is put aside.
// Where the store does not give the note, or does not take it or what is put aside,
// counting goes on in memory, and it is tried again; it is in the log.
func Open(store Store, log *zap.Logger) *Book {
	b := New()
	b.keeper = keeper{store: store, log: log, stop: make(chan struct{}), done: make(chan struct{})}
	if err := b.load(); err != nil {
		b.keeper.failed("what was saved so far cannot be read: it is counted in memory, and tried again", err)
	}
	go b.keep()
	return b
}

// load reads what was written before, and adds what was counted since.
func (b *Book) load() error {
	k := &b.keeper
	data, err := k.store.Note(noteName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.read = true
		return nil
	case err != nil:
		return err
	}
	if derr := b.decode(data); derr != nil {
		if err := k.store.WriteNote(asideName, data); err != nil {
			return errors.Join(derr, err) // not written over before there is a copy
		}
		k.read = true
		k.log.Error("what was saved so far is no book: a copy of the file is put aside, and counting begins anew", zap.String("aside", asideName), zap.Error(derr))
		return nil
	}
	k.read, k.last = true, data
	return nil
}

// failed says once that the note cannot be read or written.
func (k *keeper) failed(what string, err error) {
	if !k.failing {
		k.log.Warn(what, zap.Error(err))
	}
	k.failing = true
}

// Close writes the book down for the last time. What is added later is lost.
func (b *Book) Close() {
	if b.keeper.stop != nil {
		close(b.keeper.stop)
		<-b.keeper.done
	}
}

func (b *Book) keep() {
	defer close(b.keeper.done)
	t := time.NewTicker(saveEvery)
	defer t.Stop()
	for {
		b.save() // at once for the first time: there the installation begins
		select {
		case <-t.C:
		case <-b.keeper.stop:
			b.save()
			return
		}
	}
}

// save writes the book down if it has changed.
func (b *Book) save() {
	k := &b.keeper
	if !k.read {
		if err := b.load(); err != nil {
			k.failed("what was saved so far cannot be read: it is counted in memory, and tried again", err)
			return
		}
	}
	data, err := b.encode()
	if err == nil && bytes.Equal(data, k.last) {
		return
	}
	if err == nil {
		err = k.store.WriteNote(noteName, data)
	}
	if err != nil {
		k.failed("what is saved cannot be written down: it is counted in memory, and tried again", err)
		return
	}
	if k.failing {
		k.log.Info("what is saved is written down again")
	}
	k.failing, k.last = false, data
}

// note is how a book is written down.
type note struct {
	Version int       `json:"version"`
	Since   time.Time `json:"since"`
	Day     string    `json:"day"` // 2006-01-02
	Rows    []noted   `json:"rows"`
}

// noted is a row. Counts are bytes sent and received, pulls asked for and spent: of all
// time before this week, of Day, of the day before it, and so on, as far as there were any.
type noted struct {
	Upstream   string      `json:"upstream"`
	Repository string      `json:"repository,omitempty"` // "": the others
	Counts     [][4]uint64 `json:"counts"`
}

func (b *Book) encode() ([]byte, error) {
	b.mu.Lock()
	b.turn()
	n := note{layout, b.since, midnight(b.day).Format(time.DateOnly), make([]noted, 0, len(b.rows))}
	for k, r := range b.rows {
		n.Rows = append(n.Rows, noted{k.upstream, k.repository, r.encode()})
	}
	b.mu.Unlock()
	slices.SortFunc(n.Rows, func(a, b noted) int {
		return cmp.Or(cmp.Compare(a.Upstream, b.Upstream), cmp.Compare(a.Repository, b.Repository))
	})
	return json.Marshal(n)
}

func (r *row) encode() (counts [][4]uint64) {
	for _, t := range append([]Tally{r.before, r.today.tally()}, r.earlier[:]...) {
		counts = append(counts, [4]uint64{t.Sent, t.Received, t.Asked, t.Spent})
	}
	for len(counts) > 0 && counts[len(counts)-1] == [4]uint64{} {
		counts = counts[:len(counts)-1]
	}
	return counts
}

// decode reads what encode wrote, and adds it to what is in the book.
func (b *Book) decode(data []byte) error {
	var n note
	if err := json.Unmarshal(data, &n); err != nil {
		return fmt.Errorf("read %s: %w", noteName, err)
	}
	if n.Version != layout {
		return fmt.Errorf("read %s: it has version %d, this program knows %d", noteName, n.Version, layout)
	}
	day, err := time.Parse(time.DateOnly, n.Day)
	if err != nil || n.Since.IsZero() {
		return fmt.Errorf("read %s: it has no day (%q, since %s)", noteName, n.Day, n.Since)
	}
	rows := map[key]*row{}
	for _, saved := range n.Rows {
		r := &row{}
		if !r.decode(saved.Counts) || saved.Upstream == "" {
			return fmt.Errorf("read %s: it has a row that is none", noteName)
		}
		rows[key{saved.Upstream, saved.Repository}] = r
	}
	before := Book{since: n.Since.UTC(), day: dayOf(day), rows: rows}
	before.turn()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn()
	for k, r := range b.rows {
		before.row(k).absorb(r)
	}
	b.since, b.day, b.rows = before.since, before.day, before.rows
	if len(b.rows) > maxRows {
		b.sumUp()
	}
	return nil
}

func (r *row) decode(counts [][4]uint64) bool {
	for i, c := range counts {
		t := Tally{c[0], c[1], c[2], c[3]}
		switch {
		case i == 0:
			r.before = t
		case i == 1:
			r.today.add(t)
		case i-2 < len(r.earlier):
			r.earlier[i-2] = t
		default:
			return false
		}
	}
	return true
}
