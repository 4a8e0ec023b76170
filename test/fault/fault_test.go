// Package fault_test shows what the daemon does when clients, upstreams and disks misbehave: each file of testdata is one
// case, run against the real program.
package fault_test

import (
	"testing"

	"cistern/test/lab"
	"cistern/test/script"
)

func TestMain(m *testing.M) { lab.Main(m) }

func TestScripts(t *testing.T) { script.Run(t, "testdata") }
