//go:build !race

package durabletest

// Raced tells whether the race detector watches.
const Raced = false
