package main

// ofScrub are the protections of who hashes blobs again: what is right stays, what is wrong goes, and nobody waits.
func ofScrub() []mutant {
	const cache, blob = "cache", "cache/blob"
	return []mutant{
		{"a damaged blob is let be", "cache/exam.go", "return n, true, &flaw{errWrong, unknown, false}", "return n, true, nil", cache, "TestVerify$|TestScrub$"},
		{"an evicted blob is taken for damaged", "cache/exam.go",
			"if _, stands := c.current(e.rec); !stands {", "if _, stands := c.current(e.rec); !stands && e.off < 0 {", cache, "TestVerifyBesideEviction"},
		{"what a dead disk does not give is dropped", "cache/walk.go", "case !bad.absent:", "case bad != nil:", cache, "TestVerifyDeadDisk|TestVerifyDiskComesBack"},
		{"what has failed again is believed of a dead disk", "cache/walk.go",
			"len(failed) > 0 && !w.c.gives(*w.good)", "len(failed) > 0 && w.good == nil", cache, "TestVerifyDiskComesBack"},
		{"a bad folder ends it all", "cache/walk.go", "w.dead == mostDead", "w.dead > 0", cache, "TestVerifyBadFolder"},
		{"what was not read counts as hashed", "cache/scrub.go", "if !s.walk.settled() {", "if s.walk == nil {", cache, "TestScrubRests|TestScrubStumbles"},
		{"a file without a record that is not given once is removed", "cache/prove.go", "	if err != nil {\n\t\tc.leave(f,", "	if err != nil && intact {\n\t\tc.leave(f,", cache, "TestStrayUnreadable"},
		{"what is damaged after the loss of an index is not told", "cache/unfit.go", "o.disowned = append(o.disowned, lost{f, rec})", "_ = lost{f, rec}", cache, "TestIndexLostDamaged"},
		{"one repository is asked for what is damaged", "cache/repair.go", "mostSources = 4", "mostSources = 1", cache, "TestRepairElsewhere"},
		{"two files are compared while somebody is served", "cache/scrub.go", "	if c.scrubbed.verifying.Load() || c.active() {\n", "	_, _ = s.locate()\n\tif c.scrubbed.verifying.Load() || c.active() {\n", cache, "TestCompare"},
		{"a folder that was removed is taken for a bad one", "cache/walk.go", "case w.good != nil && !slices", "case w.good == nil && !slices", cache, "TestVerifyRemoved"},
		{"blobs are hashed while somebody is served", "cache/scrub.go",
			"c.scrubbed.verifying.Load() || c.active()", "c.scrubbed.verifying.Load() && c.active()", cache, "TestScrub$"},
		{"a restart begins anew", "cache/scrub.go", "\ts.set(at)\n\tt := time.NewTimer", "\ts.set(index.Scrub{Ended: at.Ended})\n\tt := time.NewTimer", cache, "TestScrubGoesOn"},
		{"what is set aside has no bound", "cache/blob/aside.go",
			"n > 0 && (n > asideMost || sum > s.asideMax())", "n > 1<<20 && sum > 0", blob, "TestAsideBounds"},
		{"what is set aside is not counted", "cache/blob/aside.go", "\t\ts.ledger.addUsed(s.allocated(fi), false)\n", "", blob, "TestSetAside"},
		{"what is set aside and read is free", "cache/blob/aside.go", "if of == nil || of.uses == 0 {", "if of == nil || of.uses >= 0 {", blob, "TestAsideWithReader"},
	}
}
