package main

// Below, in the folders cache/blob and internal/durable, are what keeps the bytes and the account of them.

// ofSpace are the protections of the cap and of the account.
func ofSpace() []mutant {
	const blob = "cache/blob"
	return []mutant{
		{"no reservation before a write", "cache/blob/ingest.go",
			"if short := int64(len(p)) - in.room.room(); short > 0 {", "if short := int64(len(p)) - in.room.room(); short > 1<<60 {", blob, "TestUnknownLengthGrows"},
		{"the cap is not looked at", "cache/blob/ledger.go",
			"if l.limit > 0 && l.used+l.reserved+need+l.slackLocked(need) > l.limit {", "if l.limit > 0 && l.used > l.limit {", blob, "TestUnknownLengthGrows|TestLedger"},
		{"min_free is not looked at", "cache/blob/ledger.go",
			"return l.freeLocked(s)-need >= l.floor(s.size)", "return true", blob, "TestLedger"},
		{"promised space counts as free", "cache/blob/ledger.go",
			"- (l.consumed - s.consumed) - (l.reserved - l.written)", "- (l.consumed - s.consumed)", blob, "TestPromisedIsNotFree"},
		{"what was written since the file system was asked counts as free", "cache/blob/ledger.go",
			"- (l.consumed - s.consumed) - (l.reserved - l.written)", "- (l.reserved - l.written)", blob, "TestWrittenMeanwhile"},
		{"whoever comes later is served first", "cache/blob/ledger.go",
			"if len(l.waiting) == 0 && l.fitsLocked(s, need) {", "if l.fitsLocked(s, need) {", blob, "TestReserveIsInOrder"},
		{"evicted but open files count as gone", "cache/blob/lasting.go",
			"case s.opens.detach(d, allocated, rest):", "case false:", blob, "TestEvictedButOpenCounts"},
		{"evicted files that are being synced count as gone", "cache/blob/lasting.go",
			"b := begunFill{d: d, of: s.opens.add(d)}", "b := begunFill{d: d, of: &opened{uses: 1}}", "test/crash", "TestCapWhileSyncing"},
		{"what earlier fills left counts as nothing", "cache/blob/survey.go",
			"s.ledger.addUsed(k.allocated, false)", "_ = k.allocated", blob, "TestResume"},
		{"folders count as nothing", "cache/blob/survey.go",
			"s.ledger.addUsed(delta, true)", "_ = delta", blob, "TestLifeOfABlob"},
		{"the index's next transaction counts as nothing", "cache/index/index.go",
			"return n + min(2*n, rewritten) + n/freelistShare + added", "return n", "cache/index", "TestFootprint"},
		{"a transaction has no bound", "cache/index/apply.go",
			"perTx        = 1000", "perTx        = 1_000_000", "cache/index", "TestTouchesAreSplit"},
	}
}

// ofFiles are the protections of a blob's file on its way to stable storage.
func ofFiles() []mutant {
	const blob = "cache/blob"
	return []mutant{
		{"a fill's file is not synced", "cache/blob/lasting.go", "err = b.file.Sync()", "err = nil", blob, "TestPowerCutAfterEveryOperation"},
		{"a fill's folder is not synced", "cache/blob/lasting.go",
			"each(folders, s.syncFolder,", "each(folders[:0], s.syncFolder,", blob, "TestPowerCutAfterEveryOperation"},
		{"the folders above are not synced", "cache/blob/lasting.go",
			"if err := s.syncParents(); err != nil {", "if err := error(nil); err != nil {", blob, "TestPowerCutAfterEveryOperation"},
		{"folders that an earlier process made are not synced", "cache/blob/survey.go",
			"\t\ts.unsynced[dir] = true", "\t\t_ = dir", blob, "TestHistories"},
		{"a folder whose sync failed is forgotten", "cache/blob/lasting.go",
			"s.unsynced[dir] = true // nothing below it is to pass before it did", "_ = dir", blob, "TestFailedFolderIsSyncedAgain"},
		{"folders are synced in any order", "cache/blob/lasting.go",
			"for _, dir := range slices.Sorted(maps.Keys(dirs)) {", "for dir := range dirs {", blob, "TestFoldersAreSyncedFromAbove"},
		{"a failed fsync is tried again", "cache/blob/lasting.go",
			"err = b.file.Sync()", "if err = b.file.Sync(); err != nil {\n\t\t\terr = b.file.Sync()\n\t\t}", blob, "TestSyncNamesTheFailed"},
		{"a removal is not synced", "cache/blob/lasting.go",
			"each(slices.Collect(maps.Keys(byFolder)), s.syncFolder,", "each(slices.Collect(maps.Keys(byFolder))[:0], s.syncFolder,", blob, "TestPowerCutAfterEveryOperation"},
		{"a new fill writes over an old one", "cache/blob/ingest.go",
			"os.O_RDWR|os.O_CREATE|os.O_EXCL", "os.O_RDWR|os.O_CREATE|os.O_TRUNC", blob, "TestCreateDropsWhatLiesThere"},
		{"a file that changed under its writer is committed", "cache/blob/ingest.go",
			"if err == nil && fi.Size() != in.Len() {", "if err == nil && fi.Size() < 0 {", blob, "TestCommitOfAnotherLength"},
		{"a small file of our own is not synced", "internal/durable/durable.go", "err = f.Sync()", "err = nil", "internal/durable", "TestSequences"},
		{"the folder of a small file is not synced", "internal/durable/durable.go",
			"if err := fsys.SyncDir(path.Dir(name)); err != nil {", "if err := error(nil); err != nil {", "internal/durable", "TestSequences"},
		{"the removal of a mark is not synced", "internal/durable/durable.go",
			"\t\terr = fsys.SyncDir(path.Dir(name))", "\t\terr = nil", "internal/durable", "TestSequences"},
		{"links within the directory are followed", "internal/durable/beneath.go",
			"unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS", "unix.RESOLVE_BENEATH", "internal/durable", "TestOpenFileStaysInside|TestNamesStayInside"},
		{"what is no file is opened as one", "cache/blob/file.go",
			"} else if !fi.Mode().IsRegular() {", "} else if fi.Size() < 0 {", blob, "TestForeignThings"},
	}
}

// ofDirectories are the protections of a cache directory as a whole.
func ofDirectories() []mutant {
	const blob = "cache/blob"
	return []mutant{
		{"two processes may have the directory", "internal/durable/dir.go",
			"unix.LOCK_EX|unix.LOCK_NB", "unix.LOCK_SH|unix.LOCK_NB", blob, "TestOneProcess"},
		{"a newer layout is opened", "cache/blob/store.go", "case v > layout:", "case v > layout+100:", blob, "TestVersion"},
		{"the kernel's boot is not asked for", "cache/blob/store.go",
			"s.sameBoot = s.bootID != \"\" && boot == s.boot() && !s.moved", "s.sameBoot = boot != \"\" && !s.moved", blob, "TestCleanAndBootMarks|TestPowerCut"},
		{"a copy is taken for the original", "cache/blob/store.go",
			"s.moved = known && dir != s.identity()", "s.moved = known && dir == \"\"", "cache", "TestCopiedDirectory"},
		{"the mark of a clean stop stays", "cache/blob/store.go",
			"err = durable.RemoveDurable(s.fs, cleanName)", "err = nil", blob, "TestCleanAndBootMarks"},
		{"the mark of a clean stop goes, but not durably", "cache/blob/store.go",
			"err = durable.RemoveDurable(s.fs, cleanName)", "if err = s.fs.Remove(cleanName); errors.Is(err, fs.ErrNotExist) {\n\t\terr = nil\n\t}", blob, "TestPowerCutAfterEveryOperation"},
		{"half fetched files of another boot are gone on with", "cache/settle.go", "if doubted || c.store.SameBoot() {", "if doubted || c.store != nil {", "cache", "TestOtherBoot"},
		{"an index made anew leaves no mark", "cache/rebuild.go",
			"if missing && store.Holds() || store.Moved() {", "if missing && store.Moved() {", "cache", "TestIndexLost"},
		{"a broken index that is replaced leaves no mark", "cache/rebuild.go",
			"func replaceIndex(store *blob.Store, o Options) (*index.Index, error) {\n\tif err := store.MarkUnproven(); err != nil {",
			"func replaceIndex(store *blob.Store, o Options) (*index.Index, error) {\n\tif err := error(nil); err != nil {", "cache", "TestIndexLost|TestSalvage|TestIndexBreaks"},
		{"new files are kept before the old are counted", "cache/lookup.go",
			"if c.store == nil || c.rebuild.counting.Load() || c.stalls.Load() > 0 {", "if c.store == nil || c.stalls.Load() > 0 {", "cache", "TestIndexLost"},
	}
}
