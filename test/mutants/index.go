package main

// ofIndex are the protections of the index against its own file, in the folder cache/index.
func ofIndex() []mutant {
	const index = "cache/index"
	return []mutant{
		{"a fault on the mapped file ends the process", "cache/index/guard.go", "debug.SetPanicOnFault(true)", "debug.SetPanicOnFault(false)", index, "TestTruncatedUnderneath"},
		{"a panic of bbolt ends the process", "cache/index/guard.go",
			"\t\tp := recover()\n\t\tif c, ok := p.(callerPanic); ok {", "\t\tp := any(nil)\n\t\tif c, ok := p.(callerPanic); ok {", index, "TestHookFails|TestMutations"},
		{"a failed commit is no damage", "cache/index/guard.go", "return x.breakFor(op, err)", "return fmt.Errorf(\"index: %s: %w\", op, err)", index, "TestCommitErrors"},
		{"a full disk is damage", "cache/index/guard.go", "if refused || !errors.As(err, &errno) && !grown {", "if refused && !errors.As(err, &errno) {", index, "TestCommitErrors"},
		{"values have no checksum", "cache/index/codec.go",
			"return body, binary.BigEndian.Uint32(value[len(body):]) == sum", "return body, sum == sum", index, "TestDamagedValueIsAMissAndGoes|TestMutations"},
		{"a newer index is opened", "cache/index/index.go", "case version > layout:", "case version > layout+100:", index, "TestNewerVersion"},
		{"a scan drives out what is wanted again and again", "cache/index/victims.go", "rank -= (OnceAges - 1)", "rank -= 0 * (OnceAges - 1)", index, "TestOnceGoesFirst"},
		{"a use that came too soon after the last never counts", "cache/index/apply.go", "&& moved.lane() == s.lane() {", "&& moved.class == s.class {", index, "TestAgainIsStored"},
		{"an order of use of an older program is not undone", "cache/index/apply.go", "if s.lane() != lane(s.class) {", "if s.lane() >= lanes {", index, "TestOldLanes"},
		{"blobs of an older program are not evicted", "cache/index/codec.go", "return l == lane(s.class) || l == s.lane()", "return l == s.lane()", index, "TestOldLanes"},
		{"totals go on after a record was lost", "cache/index/apply.go", "if w.recount {", "if w.recount && w.touched {", index, "TestDamagedValueIsAMissAndGoes"},
		{"grants stay when their blob goes", "cache/index/apply.go",
			"for k, _ := c.Seek(key); bytes.HasPrefix(k, key); k, _ = c.Seek(key) {", "for k, _ := c.Seek(key); bytes.Equal(k, key); k, _ = c.Seek(key) {", index, "TestDeletionTakesGrants|TestBatchOrder"},
		{"salvage follows pages in a circle", "cache/index/pages.go",
			"if depth == maxDepth || w.visited(id) {", "if w.visited(id) && false {", index, "TestSalvageOfNonsense|TestMutations"},
		{"the order of use does not look at touches in memory", "cache/index/victims.go",
			"if at := o.pendingUse(d); at > last {", "if at := o.pendingUse(d); at > last && l == lanes {", index, "TestModel"},
		{"a clock that was set back keeps blobs for ever", "cache/index/apply.go",
			"if max(at, s.last)-min(at, s.last) < uint64(w.age) &&", "if at < s.last+uint64(w.age) &&", index, "TestClockSteps"},
	}
}
