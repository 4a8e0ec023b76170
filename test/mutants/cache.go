package main

// Below, in the folder cache, is what decides when a file is a blob.

// ofCheckpoints are the protections of records.
func ofCheckpoints() []mutant {
	const cache = "cache"
	return []mutant{
		{"a record is written before its file is synced", "cache/keeper.go",
			"for d, err := range c.store.Sync(unsynced) {", "for d, err := range c.store.Sync(nil) {", cache, "TestOrderOfACheckpoint"},
		{"a file whose sync failed is recorded", "cache/keeper.go",
			"for d, err := range c.store.Sync(unsynced) {", "c.store.Sync(unsynced)\n\tfor d, err := range map[oci.Digest]error{} {", cache, "TestFsyncFails"},
		{"a file whose sync failed is kept and synced again", "cache/keeper.go",
			"c.condemn(synced[d].Record)", "_ = synced[d].Record", cache, "TestFsyncFails"},
		{"a file is renamed before its record is written", "cache/keeper.go",
			"\tif !c.apply(b) {", "\tfor _, rec := range b.Put {\n\t\tc.promote(synced[rec.Digest])\n\t}\n\tif !c.apply(b) {", cache, "TestOrderOfACheckpoint"},
		{"a record goes before the removal is synced", "cache/keeper.go",
			"failed := c.store.SyncRemoved(unsynced)", "failed := map[oci.Digest]error{}", cache, "TestOrderOfACheckpoint"},
		{"the same, with the power cut", "cache/keeper.go",
			"failed := c.store.SyncRemoved(unsynced)", "failed := map[oci.Digest]error{}", "test/crash", "TestRemovedComesBack"},
		{"a record goes although the removal's sync failed", "cache/keeper.go",
			"return slices.DeleteFunc(left, func(d oci.Digest) bool { return failed[d] != nil })", "return slices.DeleteFunc(left, oci.Digest.IsZero)", cache, "TestOrderOfACheckpoint|TestSyncOfRemovalFails"},
		{"a record goes before its file", "cache/lookup.go",
			"\tif err := c.removeFile(rec); err != nil {", "\tc.forget(rec, why)\n\tif err := c.removeFile(rec); err != nil {", cache, "TestEvictionThatCannotUnlink"},
		{"what a full disk did not record is forgotten", "cache/keeper.go", "\t\tc.putBack()", "\t\t_ = c.putBack", cache, "TestFullIndex|TestCheckpointIsPutBack"},
		{"a record outranks what happened since", "cache/recent.go",
			"return rec, false, gone", "return rec, false, false", cache, "TestEvictedAndBack"},
		{"a half fetched file is put in a blob's place", "cache/keeper.go",
			"if !ok || now.turn != p.turn {", "if !ok && now.turn == p.turn {", cache, "TestEvictedInACheckpoint"},
		{"a record that was written for an evicted blob stays", "cache/keeper.go",
			"} else if g, ok := c.gone[d]; ok { // evicted meanwhile", "} else if g, ok := c.gone[d]; ok && g.recorded {", cache, "TestEvictedInACheckpoint"},
		{"a blob that was evicted and is back is gone", "cache/keeper.go",
			"if g, ok := c.gone[d]; ok { // an earlier one", "if g, ok := c.gone[d]; ok && g.allocated < 0 { // an earlier one", cache, "TestEvictedAndBackWithinACheckpoint"},
		{"what is read is evicted", "cache/evict.go", "return gone || waits && !p.recorded || c.busy(d)", "return gone || waits && !p.recorded", cache, "TestEvict|TestBusy"},
		{"what no checkpoint has seen is not evicted", "cache/evict.go",
			"victims = c.freshVictims(want)", "_ = c.freshVictims", cache, "TestFsyncStalls"},
		{"the floors are not looked at", "cache/evict.go",
			"Victims(want, c.floorsInIndex(), c.lastTouch, c.passOver)", "Victims(want, [index.Classes]int64{}, c.lastTouch, c.passOver)", cache, "TestFloors"},
	}
}

// ofBytes are the protections against wrong bytes.
func ofBytes() []mutant {
	const cache = "cache"
	return []mutant{
		{"a file in fills/ of a record's size is that blob", "cache/settle.go",
			"\tcase doubted:\n", "\tcase doubted && c.store.Promote(d) == nil:\n\tcase doubted:\n", cache, "TestStaleRecord"},
		{"a labelled leftover is not hashed", "cache/keep.go",
			"case !f.here || f.digest.Matches(left.hash):", "case f.ctx != nil:", cache, "TestStaleRecord"},
		{"a whole leftover is not hashed", "cache/fill.go",
			"if left != nil && !left.in.Tracked() && f.digest.Matches(left.hash) {", "if left != nil && left.in.Len() == 2<<20 {", cache, "TestResumeWrong"},
		{"a file without a record is not hashed", "cache/prove.go", "return f, d.Matches(h), nil", "return f, true, nil", cache, "TestIndexLost|TestProveSmall"},
		{"what nobody has synced is recorded", "cache/prove.go",
			"if intact && !f.Lasting {", "if intact && c.store == nil {", cache, "TestAdoptedIsLasting"},
		{"what came after all was synced is taken for synced", "cache/blob/unproven.go",
			"f.Lasting = changed.Before(*synced)", "f.Lasting = true", cache, "TestAdoptedIsLasting"},
		{"what is proven gathers where no record can be written", "cache/prove.go",
			"c.waiting() >= 2*recordAt && !c.checkpoint() ||", "c.waiting() < 0 ||", cache, "TestNoRoomForRecords"},
		{"a new file is made beside one that is not proven", "cache/pour.go",
			"if _, lies := c.store.Lying(d); lies {", "if _, lies := c.store.Lying(d); lies && size < -1 {", cache, "TestNoFileBesideAnother"},
		{"a fetched file is not hashed", "cache/prefix.go", "return p.d.Matches(p.hash)", "return true", cache, "TestWrongBytes"},
		{"a fetched small blob is not hashed", "cache/pour.go", "if !f.digest.Verify(f.data) {", "if f.digest.IsZero() {", cache, "TestWrongBytes"},
		{"what goes past the disk is not hashed", "cache/detour.go",
			"if errors.Is(err, io.EOF) && dt.hash != nil && !dt.d.Matches(dt.hash) {", "if errors.Is(err, io.EOF) && dt.hash != nil && dt.d.IsZero() {", cache, "TestNoRoom"},
		{"the last byte is not held back", "cache/flight/reader.go",
			"return min(end, f.size-1)", "return end", "cache/flight", "TestModel|TestReadable"},
		{"the last byte is not held back where the size is not known", "cache/flight/reader.go",
			"return end - 1", "return end", "cache/flight", "TestModel|TestReadable"},
		{"a failed fill ends like a whole one", "cache/flight/reader.go",
			"case f.state == failed:\n\t\t\terr = f.err", "case f.state == failed:\n\t\t\terr = io.EOF", "cache/flight", "TestModel|TestReadable"},
		{"a hit's size is not compared with its record", "cache/lookup.go",
			"if err == nil && f.Size == rec.Size {", "if err == nil {", "test/disk", "TestDamagedIdle/truncated"},
		{"a small object from disk is not hashed", "cache/lookup.go", "if !d.Verify(data) {", "if d.IsZero() {", "test/disk", "TestFlipped"},
		{"pages that may be zeros are gone on from", "cache/mend.go",
			"return err == nil && fi.Size() > 0 && fi.Size() < r.off", "return err == nil && fi.Size() < 0", "test/disk", "TestTruncatedInFlight"},
	}
}

// ofFaults are the protections against disks and bugs.
func ofFaults() []mutant {
	const cache = "cache"
	return []mutant{
		{"a hit that breaks is cut", "cache/mend.go",
			"if r.repo == nil || r.mends == maxMends {", "if r.mends >= 0 {", cache, "TestHitBreaks"},
		{"a broken index is not replaced", "cache/rebuild.go",
			"\tbroken := old.Broken()\n\tif broken == nil {", "\tbroken := old.Broken()\n\tif old != nil {", cache, "TestIndexBreaksInUse"},
		{"tags of a broken index are not read", "cache/rebuild.go", "\tif lost {\n\t\tc.salvage()", "\tif lost && count && !count {\n\t\tc.salvage()", cache, "TestSalvage"},
		{"what was proven since it was looked up is fetched again", "cache/prove.go",
			"return c.findStored(d) // the proof", "return index.Record{}, false // the proof", cache, "TestProvenSinceTheLookUp"},
		{"a manifest whose file somebody else has is not kept", "cache/manifest.go",
			"c.claimOr(m.Digest, func() { c.keepManifest(repo, m) })", "c.claim(m.Digest)", cache, "TestManifestOnAClaim"},
		{"an image is not served while its layers are proven", "cache/pullable.go",
			"!here && !c.provable(b.Digest, b.Size)", "!here", cache, "TestStaleBeforeTheProof"},
		{"fills go on to a disk that does not come back", "cache/lookup.go",
			"c.rebuild.counting.Load() || c.stalls.Load() > 0 {", "c.rebuild.counting.Load() {", cache, "TestDiskStalls"},
		{"readers wait for a disk that does not come back", "cache/stall.go",
			"\t\tc.stalled()\n\t\tleave()", "\t\tc.stalled()", cache, "TestDiskStalls"},
		{"a panic in a fill ends the process", "cache/fill.go", "if p := recover(); p != nil {", "if p := any(nil); p != nil {", cache, "TestPanics"},
		{"a panic in a checkpoint ends the process", "cache/keeper.go", "if p := recover(); p != nil {", "if p := any(nil); p != nil {", cache, "TestPanics|TestIndexPanics"},
		{"a panic in an eviction ends the process", "cache/evict.go", "if p := recover(); p != nil {", "if p := any(nil); p != nil {", cache, "TestPanics|TestIndexPanics"},
		{"a panic in a sync ends the process", "cache/blob/lasting.go", "if p := recover(); p != nil {", "if p := any(nil); p != nil {", "cache/blob", "TestSyncPanics"},
		{"an eviction that cannot unlink tries for ever", "cache/evict.go",
			"\tfor _, rec := range victims {\n\t\trec, ok := c.drop(rec, index.Evicted)", "\tany = len(victims) > 0\n\tfor _, rec := range victims {\n\t\trec, ok := c.drop(rec, index.Evicted)", cache, "TestEvictionThatCannotUnlink"},
		{"a panic in a checkpoint loses what it was to delete", "cache/keeper.go",
			"c.stillGoneLocked(c.leaving) // of a checkpoint that panicked", "", cache, "TestPanicInACheckpoint"},
		{"an index put aside is not counted", "cache/rebuild.go",
			"\tc.countIndex()\n\tc.takeUp(true, false)", "\tc.takeUp(true, false)", cache, "TestRenewalFails"},
		{"a growing file that cannot be read cuts its readers", "cache/mend.go", "return r.leave(cause)", "return cause", cache, "TestGrowingFileCannotBeRead"},
		{"a file that does not go is forgotten", "cache/prove.go", "left.Store(true)", "_ = &left", cache, "TestLeftUnproven"},
		{"what goes while all is counted is given back uncounted", "cache/lookup.go",
			"if err := c.removeFile(rec); err != nil {", "if err := c.store.Remove(rec.Digest, rec.Allocated); err != nil {", cache, "TestGoneWhileCounted"},
		{"a count that missed something counts", "cache/early.go", "if r.missed {", "if r.missed && !account {", cache, "TestGoneWhileCounted"},
		{"the file of a damaged record is nobody's", "cache/lost.go", "c.rebuild.on.Store(true)", "_ = &c.rebuild.on", cache, "TestDamagedRecords"},
		{"damaged records leave no mark", "cache/lost.go", "if err := c.store.MarkUnproven(); err != nil {", "if err := error(nil); err != nil {", cache, "TestDamagedRecordThenKilled"},
		{"memory keeps a label of the past", "cache/lookup.go", "\t\t\tc.hot.remove(d)", "\t\t\t_ = now", cache, "TestChangedWhileRead"},
		{"a reader is held for one of another file", "cache/blob/file.go", "return o.m[d] == of", "return of != nil", "cache/blob", "TestOpenedBetweenTwoFiles"},
		{"who waits for a leftover waits for the disk", "cache/stall.go", "func() { g.leave(at) }", "func() { _ = at }", cache, "TestReadOfALeftoverStalls"},
		{"a disk that others fill is not spoken of", "cache/evict.go", "\t\t\tc.say(&crowd)", "\t\t\t_ = crowd", cache, "TestOthersFillTheDisk"},
	}
}
