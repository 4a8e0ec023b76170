//go:build race

package durabletest

// raced tells whether the race detector watches.
const raced = true
