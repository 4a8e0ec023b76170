package layout

import (
	"testing"

	"cistern/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
