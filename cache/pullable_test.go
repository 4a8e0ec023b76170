package cache

import (
	"fmt"
	"strings"
	"testing"

	"cistern/internal/oci"
)

// TestPullableOnce: of indexes that all name the same indexes each is read once. Else it
// would be thirteen million times, and this would not end.
func TestPullableOnce(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	below := madeUp("nothing", 60)
	var index string
	for level := range 5 {
		var these []oci.Digest
		for i := range 60 {
			index = strings.Replace(indexOf(below...), "{", fmt.Sprintf(`{"n":%d,`, i), 1)
			tag := fmt.Sprint(level, "-", i)
			these = append(these, s.o.tag(tag, index))
			s.pull(tag, nil)
		}
		below = these
	}
	if s.pullable([]byte(index)) {
		t.Error("nothing of it is here")
	}
	platform, _ := s.image("v1", 1)
	if whole := indexOf(below[0], below[0], platform); !s.pullable([]byte(whole)) {
		t.Error("one of its platforms is here")
	}
}
