package main

import (
	"runtime"
	"testing"
)

// It is of the whole process: no other test runs beside it.
func TestAddProcs(t *testing.T) {
	runtime.SetDefaultGOMAXPROCS()
	was := runtime.GOMAXPROCS(0)
	addProcs(func(string) string { return "3" })()
	if n := runtime.GOMAXPROCS(0); n != was {
		t.Errorf("%d, though the operator has said it", n)
	}
	stop := addProcs(func(string) string { return "" })
	if n := runtime.GOMAXPROCS(0); n != was+min(was, waiters) {
		t.Errorf("%d of %d", n, was)
	}
	if stop(); runtime.GOMAXPROCS(0) != was {
		t.Errorf("%d remain", runtime.GOMAXPROCS(0))
	}
}
