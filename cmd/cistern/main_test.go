package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"cistern/internal/leaktest"
)

// checked runs the tests and looks for what they leave behind.
type checked struct{ *testing.M }

func (c checked) Run() int { return leaktest.Run(c.M) }

// The scripts run this program's main under the name that users know.
func TestMain(m *testing.M) {
	testscript.Main(checked{m}, map[string]func(){"cistern": main})
}
