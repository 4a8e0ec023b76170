package durabletest

import (
	"os"
	"strconv"
)

// What make faults sets: by how much the numbers of random histories, of
// damaged files and of moments of failure are multiplied, and the seed of what has one.
const (
	timesVariable = "FAULT_TIMES"
	seedVariable  = "FAULT_SEED"
)

// Times is n, or as many times more as the environment's FAULT_TIMES says.
func Times(n int) int {
	if times, err := strconv.Atoi(os.Getenv(timesVariable)); err == nil && times > 0 {
		return n * times
	}
	return n
}

// OneIn is n, or as many times less as FAULT_TIMES says, down to 1: of what
// differs only in when it happens, that every n-th is tried.
func OneIn(n int) int { return max(1, n/Times(1)) }

// Either is plain, or watched under the race detector: which needs no more than
// a sample of runs that all do the same beside each other, and takes six times
// as long for each. make test does both.
func Either(plain, watched int) int {
	if Raced {
		return watched
	}
	return plain
}

// Seed is the environment's FAULT_SEED, or otherwise.
func Seed(otherwise uint64) uint64 {
	if seed, err := strconv.ParseUint(os.Getenv(seedVariable), 10, 64); err == nil {
		return seed
	}
	return otherwise
}
