package cache

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"cistern/internal/durable/durabletest"
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

// TestLateReader: a reader joins a fill, and comes to open its file when the disk
// has failed, the file is gone, and another fill of the digest has begun.
func TestLateReader(t *testing.T) {
	t.Parallel()
	var late, broken atomic.Bool
	opening, opened := make(chan struct{}), make(chan struct{})
	o, c := newOrigin(), faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
		switch {
		case op.Kind == "open" && strings.HasPrefix(op.Name, "fills/") && late.CompareAndSwap(true, false):
			close(opening)
			return &durabletest.Fault{Stall: opened}
		case op.Kind == "write" && broken.CompareAndSwap(true, false):
			return &durabletest.Fault{Err: syscall.EIO}
		}
		return nil
	})
	right := noise(3*mib, 90)
	d, wrong := o.put(right), noise(3*mib, 91)
	rest, end := make(chan struct{}), make(chan struct{})
	o.blob = func(n int, _ oci.Digest, off, _ int64) (*Body, error) {
		switch n {
		case 1:
			return body(-1, 0, step{data: right[:mib]}, step{wait: rest, data: right[mib:]})
		case 3:
			return body(-1, 0, step{data: wrong}, step{wait: end})
		}
		return body(-1, off, step{data: right[off:]})
	}
	first, err := c.Blob(t.Context(), o.repo("a"), d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, first.Reader, mib-1); err != nil {
		t.Fatal(err)
	}
	late.Store(true)
	got := make(chan []byte)
	go func() {
		data, _, err := c.get(o.repo("a"), d)
		if err != nil {
			data = nil
		}
		got <- data
	}()
	<-opening
	broken.Store(true)
	close(rest)
	if data, err := readAll(first); err != nil || len(data) != 2*mib+1 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	first.Close()
	c.idle()
	third, err := c.Blob(t.Context(), o.repo("a"), d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, third.Reader, 3*mib-1); err != nil {
		t.Fatal(err)
	}
	close(opened)
	if data := <-got; oci.FromBytes(data) != d {
		t.Errorf("%d bytes, which are not the blob's", len(data))
	}
	close(end)
	third.Close()
	c.idle()
}
