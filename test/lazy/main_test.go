// Package lazy_test shows what the daemon does for clients that read blobs in pieces: each with the request pattern of its real
// client, each against an origin that writes down what it was asked for. What a test says of upstream it says of the requests
// that reached the origin, never of a clock.
package lazy_test

import (
	"testing"

	"cistern/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }
