package scenario

import (
	"strings"
	"testing"
)

// Each call counts once, also where the tracer wrote it in two lines, and what is
// not of the cache does not.
func TestClassify(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("ab", 32)
	log := strings.Join([]string{
		"11 1.0 fdatasync(7</c/index.db>) = 0",
		"12 1.1 fsync(8</c/fills/sha256/ab/" + hex + ">) = 0",
		"12 1.2 fsync(9</c/fills/sha256/ab>) = 0",
		"12 1.3 fdatasync(7</c/index.db> <unfinished ...>",
		"11 1.4 fsync(8</c/blobs/sha256/ab/" + hex + ">) = 0 (DELAYED)",
		"12 1.5 <... fdatasync resumed>) = 0",
		"11 1.4 sync_file_range(8</c/fills/sha256/ab/" + hex + ">, 0, 0, SYNC_FILE_RANGE_WRITE) = 0",
		"13 1.6 fsync(3</var/log/x>) = 0",
		"13 1.7 +++ exited with 0 +++",
	}, "\n")
	if got, want := classify(log, "/c"), (syncCalls{index: 2, blobs: 2, folders: 1, ranges: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
