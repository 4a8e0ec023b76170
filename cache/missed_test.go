package cache

import (
	"os"
	"strings"
	"testing"
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// TestReasons: what upstream was asked for has a reason, of each kind, for blobs and
// manifests, also after a restart; what was here has none.
func TestReasons(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	small, large := noise(1000, 270), noise(600<<10, 271)
	ds, dl := o.put(small), o.put(large)
	o.tag("v1", o.image(ds))
	manifest := o.tag("v1", o.image(ds, dl))
	blob := func(d oci.Digest) (string, Outcome) {
		t.Helper()
		content, err := c.Blob(t.Context(), o.repo("a"), d)
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		if _, err := readAll(content); err != nil {
			t.Fatal(err)
		}
		return content.Reason, content.Outcome
	}
	is := func(want string, of func() (string, Outcome), outcome Outcome) {
		t.Helper()
		if got, o := of(); !strings.HasPrefix(got, want) || want == "" && got != "" || o != outcome {
			t.Errorf("%q, %v; want %q, %v", got, o, want, outcome)
		}
	}
	for _, d := range []oci.Digest{ds, dl} {
		is("never seen", func() (string, Outcome) { return blob(d) }, OutcomeMiss)
		c.idle()
		is("", func() (string, Outcome) { return blob(d) }, OutcomeHit)
	}
	tag := func(fresh time.Duration) func() (string, Outcome) {
		return func() (string, Outcome) {
			content, err := c.tagged(o, "v1", fresh)
			if err != nil {
				t.Fatal(err)
			}
			return content.Reason, content.Outcome
		}
	}
	is("tag never seen", tag(time.Hour), OutcomeMiss)
	is("", tag(time.Hour), OutcomeHit)
	is("window expired", tag(0), OutcomeHit)
	o.tag("v1", o.image(dl))
	is("tag moved; never seen", tag(0), OutcomeMiss)

	rec, _ := c.findStored(dl)
	c.expel([]index.Record{rec})
	is("evicted 20", func() (string, Outcome) { return blob(dl) }, OutcomeMiss)
	c.idle()
	rec, _ = c.findStored(dl)
	c.expel([]index.Record{rec})
	if _, err := c.Remove(oci.Reference{Repository: o.repo("a").Repository, Digest: manifest}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Remove(oci.Reference{Repository: o.repo("a").Repository, Tag: "v1"}); err != nil {
		t.Fatal(err)
	}
	if i := c.Image(oci.Reference{Repository: o.repo("a").Repository, Tag: "v1"}, &Policy{}); i.Absence == nil || i.Absence.Why != whyPurged || i.Digest != "" {
		t.Errorf("%+v", i.Absence)
	}
	is("tag purged 20", tag(time.Hour), OutcomeMiss)
	c.idle()
	if _, err := c.Remove(oci.Reference{Repository: o.repo("a").Repository, Digest: manifest}); err != nil {
		t.Fatal(err)
	}
	c.close()
	c = open(t, Options{Dir: c.o.Dir})
	is("evicted 20", func() (string, Outcome) { return blob(dl) }, OutcomeMiss)
	is("purged 20", func() (string, Outcome) { return blob(ds) }, OutcomeMiss)
	c.idle()
	if err := os.Truncate(c.path("blobs", dl), 100); err != nil {
		if err = os.Truncate(c.path("fills", dl), 100); err != nil {
			t.Fatal(err)
		}
	}
	is("damaged 20", func() (string, Outcome) { return blob(dl) }, OutcomeMiss)
}
