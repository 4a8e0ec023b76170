package policy_test

import (
	"testing"

	"cistern/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
