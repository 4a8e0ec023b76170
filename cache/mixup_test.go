package cache

import (
	"bytes"
	"context"
	"io"
	"testing"

	"cistern/internal/oci"
)

// TestHitThatMeetsAFill: between the look-up of a blob and the opening of its
// file lies a question upstream. If the blob goes meanwhile and a fill of it
// begins, what is opened is no blob yet, whatever its size.
func TestHitThatMeetsAFill(t *testing.T) {
	t.Parallel()
	o, other := newOrigin(), newOrigin()
	o.private, other.private = true, true
	c, _, blobs := stocked(t, o)
	d := blobs[0]
	other.put(o.blobs[d])
	asked, answer, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
	other.refuse = func(_ context.Context, kind, _ string) error {
		if kind == "info" {
			close(asked)
			<-answer
		}
		return nil
	}
	got := make(chan []byte)
	go func() {
		data, _, _ := c.get(other.repo("other"), d)
		got <- data
	}()
	<-asked
	rec, _ := c.findStored(d)
	if !c.expel(recordsOf(rec)) {
		t.Fatal("not evicted")
	}
	wrong := bytes.Clone(o.blobs[d])
	wrong[0] ^= 1
	o.blob = func(n int, _ oci.Digest, off, _ int64) (*Body, error) {
		return body(-1, off, step{data: wrong[off:]}, step{wait: end})
	}
	content, err := c.Blob(t.Context(), o.repo("a"), d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, content.Reader, rec.Size-1); err != nil { // all is in the file
		t.Fatal(err)
	}
	close(answer)
	var data []byte
	until(t, "it has been read, or follows the fill", func() bool {
		select {
		case data = <-got:
			return true
		default:
			f, ok := c.flights.Get(d)
			return ok && f.Readers() == 2
		}
	})
	if len(data) == len(wrong) {
		t.Error("it got what nobody has verified, whole")
	}
	close(end)
	content.Close()
	if data == nil {
		<-got
	}
	c.idle()
}
