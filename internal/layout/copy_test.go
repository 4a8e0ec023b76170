package layout

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"cistern/internal/oci"
)

// hesitant gives nothing before each read that it answers.
type hesitant struct {
	io.Reader
	gave bool
}

// Read implements io.Reader.
func (h *hesitant) Read(p []byte) (int, error) {
	if h.gave = !h.gave; h.gave {
		return 0, nil
	}
	return h.Reader.Read(p)
}

// TestCopyVerified: a large blob is copied and hashed however its reader gives it out.
func TestCopyVerified(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef-"), 3*chunk/17+5)
	right := oci.Descriptor{Digest: oci.FromBytes(content), Size: int64(len(content))}
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		from  io.Reader
		d     oci.Descriptor
		wants error // nil: none; io.EOF: any
	}{
		"whole":              {bytes.NewReader(content), right, nil},
		"in halves":          {iotest.HalfReader(bytes.NewReader(content)), right, nil},
		"end with the last":  {iotest.DataErrReader(bytes.NewReader(content)), right, nil},
		"nothing in between": {&hesitant{Reader: iotest.HalfReader(bytes.NewReader(content))}, right, nil},
		"another one":        {bytes.NewReader(content), oci.Descriptor{Digest: oci.FromBytes(nil), Size: right.Size}, ErrMismatch},
		"too short":          {bytes.NewReader(content[1:]), right, io.EOF},
		"too long":           {io.MultiReader(bytes.NewReader(content), bytes.NewReader([]byte{0})), right, io.EOF},
		"breaks off":         {io.MultiReader(bytes.NewReader(content[:chunk+1]), iotest.ErrReader(broken)), right, broken},
	} {
		var to bytes.Buffer
		err := copyVerified(&to, c.from, c.d)
		if c.wants == nil && (err != nil || !bytes.Equal(to.Bytes(), content)) {
			t.Errorf("%s: %v, %d bytes", name, err, to.Len())
		}
		if c.wants != nil && (err == nil || c.wants != io.EOF && !errors.Is(err, c.wants)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
