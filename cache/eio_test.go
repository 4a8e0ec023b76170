package cache

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// TestGrowingFileCannotBeRead: who reads along a fill whose file gives an error
// is served on from upstream, from where they stand, and gets all of it; so does
// whoever comes with the next byte. FAULTS row 34.
func TestGrowingFileCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"readat", "read"} { // a copy, and what would be sendfile
		for _, sent := range []int{0, 100 << 10, mib - 1} {
			t.Run(fmt.Sprint(kind, sent), func(t *testing.T) {
				t.Parallel()
				var sick atomic.Int32 // reads that fail
				o, c := newOrigin(), faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
					if op.Kind == kind && strings.HasPrefix(op.Name, "fills/") && sick.Load() > 0 && sick.Add(-1) >= 0 {
						return &durabletest.Fault{Err: syscall.EIO}
					}
					return nil
				})
				data := noise(3*mib, 320)
				d, rest := o.put(data), make(chan struct{})
				o.blob = func(n int, _ oci.Digest, off, _ int64) (*Body, error) {
					if n > 1 {
						return nil, nil
					}
					return body(int64(len(data)), 0, step{data: data[:mib]}, step{wait: rest, data: data[mib:]})
				}
				content, err := c.Blob(t.Context(), o.repo("a"), d)
				if err != nil {
					t.Fatal(err)
				}
				defer content.Close()
				var got bytes.Buffer
				give := func(n int) (err error) {
					if kind == "readat" {
						_, err = io.CopyN(&got, struct{ io.Reader }{content.Reader}, int64(n))
					} else {
						_, err = content.Reader.SendTo(&got, int64(n))
					}
					return err
				}
				if err := give(sent); err != nil {
					t.Fatal(err)
				}
				sick.Store(1)
				close(rest)
				if err := give(len(data) - sent); err != nil || !bytes.Equal(got.Bytes(), data) {
					t.Errorf("%d bytes, %v", got.Len(), err)
				}
				if sick.Load() > 0 {
					t.Fatal("nothing failed")
				}
				c.idle()
				if n := o.count("blob"); n != 2 {
					t.Errorf("%d requests upstream", n)
				}
				c.want(o.repo("a"), d, OutcomeHit)
			})
		}
	}
}
