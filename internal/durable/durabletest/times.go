package durabletest

import (
	"os"
	"strconv"
)

// What make faults sets: by how much the numbers of random histories and of
// damaged files are multiplied, and the seed of what has one.
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

// Seed is the environment's FAULT_SEED, or otherwise.
func Seed(otherwise uint64) uint64 {
	if seed, err := strconv.ParseUint(os.Getenv(seedVariable), 10, 64); err == nil {
		return seed
	}
	return otherwise
}
