package main

// ofDisks are protections that the real program on real disks shows, in the folder test/disk.
func ofDisks() []mutant {
	const disk = "test/disk"
	return []mutant{
		{"two processes share a directory", "internal/durable/dir.go", "unix.LOCK_EX|unix.LOCK_NB", "unix.LOCK_SH|unix.LOCK_NB", disk, "TestSecondDaemon"},
		{"an index on a read-only mount is opened for writing", "cache/rebuild.go", "o.index.ReadOnly = true", "o.index.ReadOnly = false", disk, "TestReadOnlyAtStart"},
		{"nothing is evicted", "cache/evict.go", "Wanted()\n\tif want <= 0 {", "Wanted()\n\tif want <= 1<<50 {", disk, "TestCapLowered"},
		{"a blob beyond the cap waits for room", "cache/blob/ledger.go", "l.limit > 0 && need > most", "l.limit > 1<<60 && need > most", disk, "TestLargerThanTheCap"},
		{"a newer layout is taken", "cache/blob/store.go", "case v > layout:", "case v > 1000*layout:", disk, "TestNewer"},
		{"half an index is put aside over the old one", "cache/rebuild.go",
			"if rerr := os.Remove(path); rerr != nil &&", "if rerr := error(nil); rerr != nil &&", "cache", "TestIndexCannotBeReplaced"},
		{"a snapshot is a killed process", "cache/blob/unproven.go", `strconv.FormatUint(st.Dev, 10)`, `strconv.FormatUint(st.Dev&0, 10)`, disk, "TestSnapshot"},
		{"a copy is not looked through", "cache/blob/store.go", "s.moved = known && dir != s.identity()", `s.moved = known && dir == "x"`, disk, "TestCopyOfAStopped"},
		{"a tag from the future is fresh", "cache/fresh.go", "\t\tage = fresh\n", "\t\tage = 0\n", "cache", "TestClock"},
		{"a tag from the future is unknown", "cache/fresh.go", "\t\tage = fresh\n", "\t\tage = fresh + staleIfError\n", "cache", "TestClock"},
	}
}
