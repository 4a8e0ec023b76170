package cache

import (
	"context"
	"io"
	"testing"

	"cistern/internal/oci"
)

// TestWhatRangesCost: of a blob that is wanted in parts it is counted what clients
// took and what came from upstream for it; of one that somebody wants whole, nothing.
func TestWhatRangesCost(t *testing.T) {
	t.Parallel()
	data, other, small := noise(20*mib, 150), noise(3*mib, 151), noise(100<<10, 152)
	o, c := newOrigin(), open(t, Options{})
	d, e, s := o.put(data), o.put(other), o.put(small)
	repo := o.repo("a")
	step := func(what string, asked, fetched uint64, do func()) {
		t.Helper()
		before := c.Stats()
		do()
		until(t, "all that comes is counted", func() bool {
			return c.Stats().RangeFetched["docker.io"] >= before.RangeFetched["docker.io"]+fetched
		})
		after := c.Stats()
		if a, f := after.RangeAsked["docker.io"]-before.RangeAsked["docker.io"], after.RangeFetched["docker.io"]-before.RangeFetched["docker.io"]; a != asked || f != fetched {
			t.Errorf("%s: %d asked, %d fetched; want %d, %d", what, a, f, asked, fetched)
		}
	}
	part := func(of oci.Digest, data []byte, asks ...Range) func() {
		return func() { c.part(repo, of, data, asks...) }
	}
	step("two bytes", 2, mib, part(d, data, Range{Off: 0, End: 2}))
	step("of what is kept", 1000, 0, part(d, data, Range{Off: 5, End: 1005}))
	step("two ranges", 6, 2*mib, part(d, data, Range{Off: 4 * mib, End: 4*mib + 2}, Range{Off: 9 * mib, End: 9*mib + 4}))
	step("not taken", 0, mib, func() {
		content, err := c.Blob(context.Background(), repo, d, Range{Off: 15 * mib, End: 16 * mib})
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		until(t, "the piece is there", func() bool { return c.Fills()[0].OnDisk == 4*mib })
	})
	step("a small one", 7, 100<<10, part(s, small, Range{Off: 1, End: 5}, Range{Off: 10, End: 13}))
	step("all, as a range", 0, 0, func() {
		part(e, other, Range{Off: 0, End: 3 * mib})()
		until(t, "it is whole", func() bool { return len(c.Fills()) == 1 })
	})
	step("all", 0, 0, func() { c.want(repo, d, OutcomeMiss); c.idle() })
	step("of what is whole", 0, 0, part(d, data, Range{Off: 5, End: 1005}))
}

// TestWhatRangesCostBesideTheDisk: it counts as well what goes past the disk, or past
// the cache, and what upstream sends though nobody has asked for it.
func TestWhatRangesCostBesideTheDisk(t *testing.T) {
	t.Parallel()
	data := noise(5*mib, 153)
	for name, tc := range map[string]struct {
		o       Options
		policy  Policy
		rigid   bool // upstream has no ranges
		fetched uint64
	}{
		"passed":       {policy: Policy{RangeMiss: RangePass}, fetched: 1000},
		"no room":      {o: Options{Limit: 4 * mib}, fetched: 32 << 10}, // which it reads at a time
		"no ranges":    {rigid: true, fetched: 5 * mib},
		"whole anyway": {policy: Policy{RangeMiss: RangeFill}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c := newOrigin(), open(t, tc.o)
			d := o.put(data)
			if tc.rigid {
				o.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
					return &Body{ReadCloser: &script{steps: []step{{data: data}}}, Size: int64(len(data)), Whole: true, Host: "old"}, nil
				}
			}
			repo := o.repo("a")
			repo.Policy = &tc.policy
			content, err := c.Blob(t.Context(), repo, d, Range{Off: 3 * mib, End: 3*mib + 1000})
			if err != nil {
				t.Fatal(err)
			}
			defer content.Close()
			if _, err := content.Reader.Seek(3*mib, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, content.Reader, 1000); err != nil {
				t.Fatal(err)
			}
			asked := uint64(1000)
			if tc.fetched == 0 {
				asked = 0
			}
			until(t, "all that comes is counted", func() bool { return c.Stats().RangeFetched["docker.io"] >= tc.fetched })
			if s := c.Stats(); s.RangeAsked["docker.io"] != asked || s.RangeFetched["docker.io"] != tc.fetched {
				t.Errorf("%d asked, %d fetched; want %d, %d", s.RangeAsked["docker.io"], s.RangeFetched["docker.io"], asked, tc.fetched)
			}
		})
	}
}
