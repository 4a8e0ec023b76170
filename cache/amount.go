package cache

// What ranges cost upstream is counted of blobs of which nobody wants more than
// parts: they are fetched for the parts, and in pieces that are larger.

// got counts what upstream has sent for a fill.
func (c *Cache) got(f *fill, n int) {
	f.supply.got(n)
	if !f.Whole() {
		c.upstream(f.repo.Upstream).fetched(n)
	}
}

// rangesOf is where a reader of a fill counts what it takes; nil: somebody wants all
// of it.
func (c *Cache) rangesOf(f *fill) *upstreamCounters {
	if f.Whole() {
		return nil
	}
	return c.upstream(f.repo.Upstream)
}

// tookPart counts what is asked for of a blob that was collected in memory, which is
// taken at once.
func (c *Cache) tookPart(f *fill, asks []Range) {
	for _, a := range asks {
		end := int64(len(f.data))
		if a.End >= 0 {
			end = min(a.End, end)
		}
		c.rangesOf(f).took(int(max(0, end-a.Off)))
	}
}

// took counts bytes that a client asked for and took; nothing on nil.
func (u *upstreamCounters) took(n int) {
	if u != nil && n > 0 {
		u.rangeAsked.Add(uint64(n))
	}
}

// fetched counts bytes that upstream sent; nothing on nil.
func (u *upstreamCounters) fetched(n int) {
	if u != nil && n > 0 {
		u.rangeFetched.Add(uint64(n))
	}
}
