package savings

import (
	"fmt"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestRestart: the next process goes on where this one ended, on another day, too.
func TestRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPaper()
		log, logs := watched()
		b := Open(p, log)
		for day := range 10 {
			b.Add("docker.io", "library/app", true, Tally{1000, 100, 10, 1})
			b.Add("docker.io", fmt.Sprint("of/day", day), true, Tally{Sent: 1})
			b.Add("quay.io", "not/sure", false, Tally{Sent: 5})
			time.Sleep(20 * time.Hour)
		}
		for range 3 {
			before := b.Report()
			b.Close()
			b = Open(p, log)
			synctest.Wait() // what comes now is for Close to write
			if after := b.Report(); !reflect.DeepEqual(before, after) {
				t.Errorf("%+v\nbefore it was %+v", after, before)
			}
			b.Add("docker.io", "library/app", false, Tally{Sent: 1})
		}
		b.Close()
		time.Sleep(48 * time.Hour) // nobody runs
		b = Open(p, log)
		if r := b.Report(); r.Today.Tally != (Tally{}) || r.Total.Sent != 10_000+10+50+3 || r.Since.Unix() != time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix() {
			t.Errorf("%+v", r.Summary())
		}
		b.Close()
		if logs.Len() > 0 {
			t.Error(logs.All())
		}
	})
}

// TestWrittenDown: at once, so that the beginning is known, then once a minute if there
// is anything new.
func TestWrittenDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		p := newPaper()
		log, logs := watched()
		b := Open(p, log)
		defer b.Close()
		wrote := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			if got := p.written(); got != want {
				t.Errorf("%s: written %d times, want %d", what, got, want)
			}
		}
		wrote("at the start", 1)
		time.Sleep(10 * time.Minute)
		wrote("nothing happened", 1)
		b.Add("u", "a", true, sent(1))
		time.Sleep(saveEvery)
		wrote("after a minute", 2)
		left := string(p.notes[noteName]) // by a process that is killed now
		time.Sleep(10 * time.Minute)
		wrote("nothing happened", 2)

		p.refuse(true)
		b.Add("u", "a", true, sent(1))
		time.Sleep(10 * time.Minute)
		if n := logs.FilterMessageSnippet("cannot be written down").Len(); n != 1 || logs.Len() != 1 {
			t.Error(logs.All())
		}
		p.refuse(false)
		time.Sleep(saveEvery)
		wrote("it can be written again", 3)
		if logs.Len() != 2 || b.Report().Total.Sent != 2 {
			t.Errorf("%d in all; %v", b.Report().Total.Sent, logs.All())
		}

		p = newPaper()
		p.notes[noteName] = []byte(left)
		next := Open(p, log)
		defer next.Close()
		if r := next.Report(); r.Total.Sent != 1 {
			t.Errorf("after a kill: %+v", r.Summary())
		}
	})
}

// TestUnreadable: what is no book is put aside, with a word in the log, and counting
// begins anew.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	good := New()
	good.Add("u", "a", true, sent(77))
	whole, err := good.encode()
	if err != nil {
		t.Fatal(err)
	}
	many := strings.Repeat(",[1,1,1,1]", 8)
	for _, text := range []string{
		"", "\x00\x00\x00", "{}", "null", string(whole[:len(whole)-1]), strings.Replace(string(whole), `"version":1`, `"version":2`, 1),
		`{"version":1,"since":"2026-01-01T00:00:00Z","day":"today"}`, `{"version":1,"day":"2026-01-01"}`,
		`{"version":1,"since":"2026-01-01T00:00:00Z","day":"2026-01-01","rows":[{"repository":"a","counts":[[1,1,1,1]]}]}`,
		`{"version":1,"since":"2026-01-01T00:00:00Z","day":"2026-01-01","rows":[{"upstream":"u","repository":"a","counts":[[1,1,1,1]` + many + `]}]}`,
		`{"version":1,"since":"2026-01-01T00:00:00Z","day":"2026-01-01","rows":[{"upstream":"u","repository":"a","counts":[[-1]]}]}`,
	} {
		p := newPaper()
		p.notes[noteName] = []byte(text)
		log, logs := watched()
		b := Open(p, log)
		if r := b.Report(); r.Total.Tally != (Tally{}) || time.Since(r.Since) > time.Hour {
			t.Errorf("%q: %+v", text, r.Summary())
		}
		b.Add("u", "a", true, sent(5))
		b.Close()
		if logs.Len() != 1 || string(p.notes[asideName]) != text {
			t.Errorf("%q: put aside %q; %v", text, p.notes[asideName], logs.All())
		}
		b = Open(p, log)
		if r := b.Report(); r.Total.Sent != 5 || logs.Len() != 1 {
			t.Errorf("%q, the next start: %+v; %v", text, r.Summary(), logs.All())
		}
		b.Close()
	}
}

// TestFileIsBounded: the longest book takes half a MiB or so.
func TestFileIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New()
		for range 2 * week {
			for i := range maxRows {
				n := uint64(1 << 40)
				b.Add("registry.example.com", fmt.Sprintf("%0255d", i), true, Tally{n, n, n, n})
			}
			time.Sleep(24 * time.Hour)
		}
		data, err := b.encode()
		if err != nil || len(data) > 1<<20 {
			t.Errorf("%d bytes, %v", len(data), err)
		}
		t.Logf("%d bytes", len(data))
		after := New()
		if err := after.decode(data); err != nil || !reflect.DeepEqual(after.Report(), b.Report()) {
			t.Errorf("read back: %v", err)
		}
	})
}

// FuzzNote: whatever is read, what is made of it can be written and read again.
func FuzzNote(f *testing.F) {
	b := New()
	b.Add("u", "a", true, Tally{1, 2, 3, 4})
	whole, err := b.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, data []byte) {
		b := New()
		if b.decode(data) != nil {
			return
		}
		again, err := b.encode()
		if err != nil {
			t.Fatal(err)
		}
		after := New()
		if err := after.decode(again); err != nil || !reflect.DeepEqual(after.Report(), b.Report()) {
			t.Errorf("%s became %s: %v", data, again, err)
		}
	})
}

// badOnce is a store that does not give its note the first time.
type badOnce struct {
	*paper
	failed bool
}

func (b *badOnce) Note(name string) ([]byte, error) {
	if !b.failed {
		b.failed = true
		return nil, fmt.Errorf("read %s: %w", name, syscall.EMFILE)
	}
	return b.paper.Note(name)
}

// TestNoteFailsOnce: a note that cannot be read at the start is not written over: what it
// says is added to what was counted meanwhile.
func TestNoteFailsOnce(t *testing.T) {
	t.Parallel()
	p := newPaper()
	log, _ := watched()
	b := Open(p, log)
	b.Add("u", "a", true, sent(77))
	b.Close()
	b = Open(&badOnce{paper: p}, log)
	b.Add("u", "a", true, sent(3))
	b.Close()
	b = Open(p, log)
	defer b.Close()
	if got := b.Report().Total.Sent; got != 80 {
		t.Errorf("%d bytes since the installation, were 80", got)
	}
}

// TestAsideRefused: what is no book is not written over before there is a copy of it.
func TestAsideRefused(t *testing.T) {
	t.Parallel()
	p := newPaper()
	log, _ := watched()
	newer := `{"version":2,"everything":1}`
	p.notes[noteName] = []byte(newer)
	p.refuse(true)
	b := Open(p, log)
	b.Add("u", "a", true, sent(1))
	b.Close()
	if got := string(p.notes[noteName]); got != newer {
		t.Errorf("it is %s", got)
	}
	p.refuse(false)
	b = Open(p, log)
	b.Close()
	if got := string(p.notes[asideName]); got != newer {
		t.Errorf("put aside: %s", got)
	}
}
