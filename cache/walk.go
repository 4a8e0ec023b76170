package cache

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/durable"
	"cistern/internal/oci"
)

// walk goes from one blob to the next, in the order of digests, and says what is damaged:
// next gives what is to be looked at, and took takes what came of it.
//
// What the disk does not give, or does not know, is held back, and looked at again once
// the disk has given another blob whole. Only what fails again is damaged, and only if the
// disk still gives that other one then: a disk that is away for a moment comes back with
// all that it has. A folder that gives nothing is stepped over; err says so in the end.
type walk struct {
	c       *Cache
	last    oci.Digest     // that was taken up
	page    []index.Record // that come next
	held    []damage       // that have failed once
	again   []damage       // of those, to be looked at now; the first one is looked at
	twice   []damage       // of those, that have failed again
	good    *index.Record  // that was read whole, the last one
	dead    int            // folders in a row that were stepped over
	ended   bool           // what was held has been looked at once more at the end
	stopped bool           // the disk gives nothing at all
	err     error          // what was not looked at; nil: nothing
}

const (
	// mostUnreadable blobs in a row are no bad blobs, but a bad folder.
	mostUnreadable = 16
	// mostDead folders in a row are a bad disk.
	mostDead = 4
)

// next gives what is to be looked at now; nil: nothing more.
func (w *walk) next() (*exam, error) {
	for {
		switch {
		case len(w.again) > 0:
			e := newExam(w.again[0].rec)
			e.second = true
			return e, nil
		case w.stopped:
			return nil, nil
		case len(w.page) > 0:
			rec := w.page[0]
			w.page, w.last = w.page[1:], rec.Digest
			return newExam(rec), nil
		}
		page, err := w.c.idx.Load().After(w.last, examPage)
		switch w.page = page; {
		case err != nil:
			return nil, fmt.Errorf("reading the records: %w", err)
		case len(page) > 0:
		case len(w.held) == 0:
			return nil, nil
		case w.good == nil || w.ended:
			w.giveUp()
			return nil, nil
		default:
			w.ended, w.again, w.held = true, w.held, nil
		}
	}
}

// took takes what came of an exam that is over, and gives what is damaged for sure.
func (w *walk) took(e *exam, bad *flaw) (sure []damage) {
	if e.second {
		return w.tookAgain(e, bad)
	}
	switch {
	case e.right:
		w.good, w.dead = &e.rec, 0
		w.again, w.held = w.held, nil
	case bad == nil: // it went meanwhile, which says nothing of the disk
	case !bad.absent:
		return []damage{{e.rec, *bad}}
	default:
		w.held = append(w.held, damage{e.rec, *bad})
		switch {
		case len(w.held) < mostUnreadable:
		case w.good != nil && !slices.ContainsFunc(w.held, func(d damage) bool { return !d.gone() }):
			w.again, w.held = w.held, nil // somebody may have removed a folder
		default:
			w.stepOver(e.rec.Digest)
		}
	}
	return nil
}

// gone tells whether the disk says that there is no such file, which may be true.
func (f *flaw) gone() bool {
	return errors.Is(f.err, errNoFile) || errors.Is(f.err, blob.ErrForeign)
}

// tookAgain is took for what has failed before.
func (w *walk) tookAgain(e *exam, bad *flaw) (sure []damage) {
	w.again = w.again[1:]
	if bad != nil {
		w.twice = append(w.twice, damage{e.rec, *bad})
	}
	if len(w.again) > 0 {
		return nil
	}
	failed := w.twice
	w.twice = nil
	if len(failed) > 0 && !w.c.gives(*w.good) {
		if w.held = failed; len(failed) >= mostUnreadable {
			w.stepOver(w.last)
		}
		return nil
	}
	return failed
}

// settled tells whether all that was taken up is looked at, and nothing held back.
func (w *walk) settled() bool {
	return w.err == nil && len(w.held)+len(w.again)+len(w.twice) == 0
}

// stepOver goes on behind the folder in which d lies.
func (w *walk) stepOver(d oci.Digest) {
	w.giveUp()
	if w.dead++; w.dead == mostDead {
		w.stopped, w.page = true, nil
		return
	}
	hex := d.Hex()
	last, err := oci.ParseDigest(d.Algorithm() + ":" + hex[:2] + strings.Repeat("f", len(hex)-2))
	if err == nil {
		w.last, w.page = last, nil
	}
}

// giveUp forgets what is held back, and why: it may be right.
func (w *walk) giveUp() {
	n := len(w.held)
	first, last := w.held[0], w.held[n-1]
	w.skipped(fmt.Errorf("the disk does not give what comes from %s to %s (%d in a row), which is not taken for damaged: %w",
		first.rec.Digest, last.rec.Digest, n, last.err))
	w.held = nil
}

// skipped notes that something was not looked at.
func (w *walk) skipped(why error) {
	if w.err == nil {
		w.err = fmt.Errorf("%w: %w", errUnread, why)
	}
}

// gives tells whether the disk gives the first bytes of a blob, now.
func (c *Cache) gives(rec index.Record) bool {
	f, err := c.store.OpenFile(rec.Digest)
	if err != nil {
		return false
	}
	defer f.Close()
	durable.Uncache(f.File)
	buf := c.chunks.Get().(*[chunk]byte)
	defer c.chunks.Put(buf)
	p := buf[:min(rec.Size, chunk)]
	n, _ := durable.ReadAside(f.File, p, 0)
	return n == len(p) && n > 0
}
