package main

// ofFills are the protections of fills that several streams bring, and of readers of parts.
func ofFills() []mutant {
	const cache, lazy = "cache", "TestLazy"
	return []mutant{
		{"what comes out of order has no piece state", "cache/fetch.go",
			"if err := p.in.Sparse(p.f.ctx); err != nil {", "if err := error(nil); err != nil {", cache, "TestLazy$"},
		{"pieces of another boot are not checked by their sums", "cache/blob/ingest.go",
			"in.takeUp(ps, !k.own && !s.SameBoot())", "in.takeUp(ps, false)", cache, "TestResumeAfterAReboot"},
		{"piece state for another size is believed", "cache/begin.go", "said == info.Size ||", "said > 0 ||", cache, "TestLazyTornState"},
		{"what is being written is fetched once more", "cache/plan.go",
			"t.Add(j.there, max(j.at, j.end))", "t.Add(j.at, j.end)", cache, "TestParallel|TestLazyOpenRange"},
		{"a stream goes on with what is another's", "cache/fetch.go", "next.at != j.s.off ||", "", cache, "TestParallel|TestLazyBesideAWhole"},
		{"a reader far ahead waits for the one stream", "cache/plan.go", "if p.cede(from) {", "if p.cede(-1) {", cache, "TestPlan$|TestLazyBesideAWhole"},
		{"what somebody waits for is fetched in its turn", "cache/flight/reader.go",
			"wants = append(wants, w)", "later = append(later, w)", "cache/flight", "TestWants"},
		{"all of a blob is taken for the range that was asked for", "cache/stream.go",
			"if body.Offset < s.off && s.near {", "if s.all && s.near && body == nil {", cache, "TestLazyWithoutRangesTogether"},
		{"many ranges are asked of an upstream that may have none", "cache/fetch.go", "if p.asks() {", "if p.asks() && p.pace == nil {", cache, "TestLazyWithoutRangesTogether"},
		{"an answer of another size is taken", "cache/stream.go",
			"body.Size >= 0 && s.size >= 0 && body.Size != s.size", "body.Size >= 0 && s.size == 0 && body.Size != s.size", cache, "TestUpstreamContradictsItself"},
		{"what upstream refuses is asked for as long as it sends the rest", "cache/fetch.go", ", p.stuck[j.at] > maxFailures", "", "test/lazy", "TestRangeRefusedForEver"},
		{"a fill ends under a reader", "cache/flight/reader.go", "f.retired || len(f.readers) == 0", "true", "cache/flight", "TestRetire"},
		{"who comes while a whole fill is synced goes round the disk", "cache/reader.go",
			"(!r.fill.alone || r.fill.released.Load())", "r.fill.Ended()", cache, "TestEndsWhileItIsSynced"},
		{"a first part is taken for the whole where no size is said", "cache/begin.go",
			"s.size < 0 && !s.whole()", "s.size < 0 && s.off > 0", cache, "TestUnknownLengthOfAParallelHost"},
		{"bytes that are skipped fall under no limit", "cache/stream.go", "return s.draw(body, p) }", "return body.Read(p) }", cache, "TestRateOfSkipped"},
		{"a fill with many streams gets more than one with one", "cache/bandwidth/bandwidth.go",
			"max(s.time, l.time) < max(best.time, l.time)", "false", "cache/bandwidth", "TestFair"},
		{"who was idle makes up for it", "cache/bandwidth/bandwidth.go", "s.time = l.time + int64(n)", "s.time += int64(n)", "cache/bandwidth", "TestLateComer"},
		{"what nobody waits for is before what somebody does", "cache/bandwidth/bandwidth.go",
			"fits := s.awaited() == awaited", "fits := awaited", "cache/bandwidth", "TestAwaited"},
		{"more streams are tried against a limit", "cache/fetch.go", "&& !p.f.may.full() ", "", cache, "TestRateAndStreams"},
		{"the registry is asked for each part", "cache/placed.go", "if err == nil && b.Again != nil {", "if err == nil && b.Again == nil {", cache, "TestPlaced"},
		{"what credentials led to is public when it is asked for again", "upstream/redirect.go", "pass{private: at.private}", "pass{}", "upstream", "TestAgain"},
		{"a content host that hangs is asked again and again", "cache/placed.go", "p.again.CompareAndSwap(again, nil)", "_ = again", cache, "TestPlaced"},
		{"streams that do not pay are kept", "cache/pace.go", "case p.looks >= 5:", "case p.looks >= 1<<40:", cache, "TestPace$"},
	}
}
