package durabletest

import (
	"os"
	"strconv"
)

// timesVariable multiplies the number of random histories: make faults sets it.
const timesVariable = "FAULT_TIMES"

// Times is n, or as many times more as the environment's FAULT_TIMES says.
func Times(n int) int {
	if times, err := strconv.Atoi(os.Getenv(timesVariable)); err == nil && times > 0 {
		return n * times
	}
	return n
}
