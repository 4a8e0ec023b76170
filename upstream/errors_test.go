package upstream

import (
	"errors"
	"testing"
)

// TestErrorWithoutOp: what an endpoint keeps of its last failure begins with the host.
func TestErrorWithoutOp(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]*Error{
		"a:5000: refused":        {Host: "a:5000", Err: errors.New("refused")},
		"get blob: a:5000: gone": {Op: "get blob", Host: "a:5000", Err: errors.New("gone")},
	} {
		if e.Error() != want {
			t.Errorf("%q, want %q", e, want)
		}
	}
}
