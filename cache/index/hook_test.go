package index

import (
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"cistern/internal/oci"
)

// hook notes the calls and does to one of them what it is told.
type hook struct {
	mu   sync.Mutex
	ops  []string
	op   string
	does func(call func() error) error
}

func (h *hook) run(op string, call func() error) error {
	h.mu.Lock()
	h.ops = append(h.ops, op)
	does := h.does
	if op != h.op {
		does = nil
	}
	h.mu.Unlock()
	if does == nil {
		return call()
	}
	return does(call)
}

func (h *hook) set(op string, does func(call func() error) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.op, h.does, h.ops = op, does, nil
}

func TestHookSeesEveryCall(t *testing.T) {
	t.Parallel()
	h := &hook{}
	x, err := Open(filepath.Join(t.TempDir(), "index.db"), Options{Hook: h.run, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	repo := oci.Repository{Upstream: "u", Name: "n"}
	apply(t, x, Batch{Put: []Record{record(1, 1)}})
	get(t, x, digest(1))
	_, _, err1 := x.Tag(oci.Reference{Repository: repo, Tag: "t"})
	_, err2 := x.Granted(repo, digest(1))
	_, err3 := x.Victims(time.Time{}, 1, [Classes]int64{}, nil, nil)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	collect(t, x.Tags())
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"open", "read", "create", "apply", "get", "tag", "grant", "victims", "tags"}
	if !slices.Equal(h.ops, want) {
		t.Errorf("calls %q, want %q", h.ops, want)
	}
}

// FAULTS row 44: whatever happens inside a call stays inside, and the file is
// as it was before or as it is after, never half written.
func TestHookFails(t *testing.T) {
	t.Parallel()
	mine := errors.New("mine")
	for name, c := range map[string]struct {
		does            func(call func() error) error
		broken, applied bool
	}{
		"not called":       {func(func() error) error { return mine }, false, false},
		"called and fails": {func(call func() error) error { return errors.Join(call(), mine) }, false, true},
		"panics before":    {func(func() error) error { panic("x") }, true, false},
		"panics after":     {func(call func() error) error { _ = call(); panic("x") }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &hook{}
			path := filepath.Join(t.TempDir(), "index.db")
			x, err := Open(path, Options{Hook: h.run})
			if err != nil {
				t.Fatal(err)
			}
			apply(t, x, Batch{Put: []Record{record(1, 1)}})
			h.set("apply", c.does)
			err = x.Apply(Batch{Put: []Record{record(2, 1)}, Delete: []oci.Digest{digest(1)}})
			if errors.Is(err, ErrBroken) != c.broken || errors.Is(err, mine) == c.broken {
				t.Errorf("apply: %v", err)
			}
			if n, _ := x.Totals().Sum(); n != 1 {
				t.Errorf("%d records counted", n)
			}
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			x = openIndex(t, path) // also: a broken index has let the lock go
			_, before := get(t, x, digest(1))
			_, after := get(t, x, digest(2))
			if after != c.applied || before == after {
				t.Errorf("before: %v, after: %v", before, after)
			}
		})
	}
}

func TestHookFailsOpen(t *testing.T) {
	t.Parallel()
	mine := errors.New("mine")
	path := filepath.Join(t.TempDir(), "index.db")
	for _, op := range []string{"open", "read", "create"} {
		for _, does := range []func(func() error) error{
			func(func() error) error { return mine },
			func(call func() error) error { return errors.Join(call(), mine) },
			func(call func() error) error { _ = call(); panic("x") },
		} {
			h := &hook{op: op, does: does}
			x, err := Open(path, Options{Hook: h.run})
			if x != nil || !errors.Is(err, mine) && !errors.Is(err, ErrBroken) {
				if op == "create" && err == nil { // made by the round before
					err = x.Close()
				}
				if err != nil {
					t.Errorf("%s: %v, %v", op, x, err)
				}
			}
		}
	}
	openIndex(t, path) // nobody holds it
}

// A digest in Delete and Put ends with the new record and none of the old
// grants.
func TestBatchOrder(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	repos := []oci.Repository{{Upstream: "a", Name: "n"}, {Upstream: "b", Name: "n"}}
	old := record(1, 5000)
	apply(t, x, Batch{
		Put:       []Record{old, record(2, 4096)},
		PutGrants: []Grant{{repos[0], digest(1), at(0)}, {repos[0], digest(2), at(0)}},
	})
	fresh := record(1, 2<<20)
	fresh.FirstSeen, fresh.LastUsed = at(50), at(50)
	apply(t, x, Batch{
		Delete:    []oci.Digest{digest(1), digest(3)},
		Put:       []Record{fresh, record(3, 1)},
		Touch:     map[oci.Digest]time.Time{digest(1): at(100)},
		PutGrants: []Grant{{repos[1], digest(1), at(100)}},
	})
	fresh.LastUsed = at(100)
	if got, ok := get(t, x, digest(1)); !ok || got != fresh {
		t.Errorf("got %+v, %v, want %+v", got, ok, fresh)
	}
	for i, want := range []bool{false, true} {
		if ok, err := x.Granted(repos[i], digest(1)); ok != want || err != nil {
			t.Errorf("granted under %v: %v, %v", repos[i], ok, err)
		}
	}
	if ok, err := x.Granted(repos[0], digest(2)); !ok || err != nil {
		t.Errorf("the other's grant: %v, %v", ok, err)
	}
	if n, bytes := x.Totals().Sum(); n != 3 || bytes != 2<<20+2*4096 {
		t.Errorf("totals %d, %d", n, bytes)
	}
	if vs, err := x.Victims(time.Time{}, 1<<40, [Classes]int64{}, nil, nil); err != nil || len(vs) != 3 || vs[2] != fresh {
		t.Errorf("order of use: %+v, %v", vs, err)
	}
	if bad := x.Stats().BadValues; bad != 0 {
		t.Errorf("%d bad values", bad)
	}
}
