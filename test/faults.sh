#!/usr/bin/env bash
# The long counts of docs/faults.md (FAULTS goals G1, G2, G4, G5): prints one row of its tables a line, and what failed. The
# whole output is in .cache/faults.log. CUTS, KILLS, TIMES (20,000 random histories, 300 damaged index files) and SEED are
# read from the environment; a seed repeats blobs, requests and faults, not the scheduler.
set -euo pipefail
cd "$(dirname "$0")/.."
kills=${KILLS:-2000} cuts=${CUTS:-1000} times=${TIMES:-100}
seed=${SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
mkdir -p .cache
log=$PWD/.cache/faults.log
: >"$log"

# rows runs tests and prints the rows that they log.
rows() {
	"$@" 2>&1 | tee -a "$log" | sed -nE \
		-e 's/^ *[a-z_]+_test\.go:[0-9]+: (\| .*)/\1/p' \
		-e 's/^ *([a-z_]+_test\.go):[0-9]+: \[rapid\] OK, passed ([0-9]+) tests.*/| properties in \1 | random | \2 |/p' \
		-e '/^ *--- FAIL|^(FAIL|panic:)/p'
}

tests() { go test -v -count=1 -timeout 6h "$@"; }

echo "commit $(git describe --always --dirty), $(date -u +%F), $(nproc) cores, Linux $(uname -r), seed $seed"
export FAULT_TIMES=$times FAULT_SEED=$seed
rows tests -run '^TestMutations$' ./cache/index
rows tests -run '^TestHistories$' ./cache/blob | grep -v '| properties in'
RAPID_CHECKS=$((100 * times)) rows tests -run '^(TestLedger|Test(Concurrent)?Model|TestDrift|TestOrderStaysTotal)$' \
	./cache/blob ./cache/flight ./cache/index ./internal/durable/durabletest
export CISTERN_CRASH_KILLS=$kills CISTERN_CRASH_CUTS=$cuts CISTERN_CRASH_SEED=$seed
cd test
rows tests -run '^(TestKill|TestPowerCut|TestAimed|TestFills)$' ./crash
