package layout

import (
	"errors"
	"fmt"
	"hash"
	"io"

	"cistern/internal/oci"
)

const (
	// chunk is how much is read, hashed and written at a time.
	chunk = 1 << 20
	// ahead is how many chunks may wait for who hashes them.
	ahead = 4
)

// ErrMismatch is for bytes that are not what their digest names.
var ErrMismatch = errors.New("the bytes are not what the digest names")

// copyVerified copies a blob and checks size and digest. Large ones are hashed beside
// the copying.
func copyVerified(to io.Writer, from io.Reader, d oci.Descriptor) error {
	h := d.Digest.Hash()
	n, err := int64(0), error(nil)
	limited := io.LimitReader(from, d.Size+1)
	if d.Size <= chunk {
		n, err = io.Copy(io.MultiWriter(to, h), limited)
	} else {
		n, err = copyHashing(to, limited, h)
	}
	switch {
	case err != nil:
		return err
	case n != d.Size:
		return fmt.Errorf("it has %d bytes, and is said to have %d", n, d.Size)
	case !d.Digest.Matches(h):
		return ErrMismatch
	}
	return nil
}

// copyHashing copies while another goroutine hashes.
func copyHashing(to io.Writer, from io.Reader, h hash.Hash) (n int64, err error) {
	free, full, done := make(chan []byte, ahead), make(chan []byte, ahead), make(chan struct{})
	for range ahead {
		free <- make([]byte, chunk)
	}
	go func() {
		defer close(done)
		for b := range full {
			h.Write(b)
			free <- b[:cap(b)]
		}
	}()
	defer func() { close(full); <-done }()
	for {
		b := <-free
		m, rerr := from.Read(b) // what there is: a paced copy is hashed and written in small bites
		if m == 0 {
			free <- b
		} else {
			full <- b[:m]
			if _, err := to.Write(b[:m]); err != nil { // nobody changes b: it is not read into before this returns
				return n, err
			}
			n += int64(m)
		}
		switch rerr {
		case nil:
		case io.EOF:
			return n, nil
		default:
			return n, rerr
		}
	}
}
