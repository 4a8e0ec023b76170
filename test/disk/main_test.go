// Package disk_test shows what the daemon does with real file systems that are full, read-only, failing, slow, odd or changed
// behind its back, and that the cap holds at every moment. Each test has a daemon, an origin and mostly a file system of its
// own, and names its row of the fault matrix.
package disk_test

import (
	"testing"

	"cistern/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }
