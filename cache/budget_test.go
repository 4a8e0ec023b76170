package cache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// askedFor is a digest as a request has it: a part of its request line.
func askedFor(i int) (d oci.Digest, line string) {
	line = fmt.Sprintf("GET /v2/library/%d/blobs/%s HTTP/1.1", i, oci.FromBytes(fmt.Append(nil, i)))
	at := strings.Index(line, "sha256:")
	d, err := oci.ParseDigest(line[at : at+len("sha256:")+64])
	if err != nil {
		panic(err)
	}
	return d, line
}

// TestHotSetTakesWhatItSays: its limit is one of memory, whatever the sizes of
// the objects, and however they were read. Not parallel: it looks at the heap.
func TestHotSetTakesWhatItSays(t *testing.T) {
	const limit = 8 << 20
	for _, most := range []int{64, 700, 8 << 10, maxHot} {
		heap := func() int64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		rng := rand.New(rand.NewPCG(1, uint64(most)))
		before, h := heap(), newHotSet(limit)
		for i := range 3 * limit / (most/2 + 400) {
			d, _ := askedFor(i)
			data := make([]byte, rng.IntN(most)+1)
			if i%2 == 0 {
				data = bytes.Clone(append(data, make([]byte, len(data))...))[:len(data)] // as io.ReadAll leaves it
			}
			h.add(index.Record{Digest: d, MediaType: oci.MediaTypeOctetStream, LastUsed: time.Now()}, data)
		}
		if taken := heap() - before; taken > limit*105/100 || taken < limit*3/4 {
			t.Errorf("objects of up to %d bytes: %d KiB taken of %d, %d counted", most, taken>>10, limit>>10, h.bytes>>10)
		}
		runtime.KeepAlive(h)
	}
}

// TestTouchesInSmallTransactions: many uses are written in several, none of them
// large; on a slow disk in one, so that new blobs do not wait behind them.
func TestTouchesInSmallTransactions(t *testing.T) {
	t.Parallel()
	for _, slow := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			applies := 0
			o := Options{index: index.Options{NoSync: true}}
			o.index.Hook = func(op string, call func() error) error {
				if op == "apply" {
					applies++
					if slow {
						time.Sleep(time.Second)
					}
				}
				return call()
			}
			c := newCache(o) // without its loops
			c.o.Dir = t.TempDir()
			if err := c.openDisk(); err != nil {
				t.Fatal(err)
			}
			const n = 2 * touchRounds * touchesAt
			for i := range n {
				d, _ := askedFor(i)
				c.touch(d, time.Now())
			}
			if !c.checkpoint() {
				t.Error("no checkpoint")
			}
			want := touchRounds
			if slow {
				want = 1
			}
			if applies != want || len(c.touched) != n-want*touchesAt {
				t.Errorf("slow: %v: %d transactions, want %d; %d uses are left", slow, applies, want, len(c.touched))
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNoRequestLineIsKept: what outlives a request holds none of its memory.
func TestNoRequestLineIsKept(t *testing.T) {
	t.Parallel()
	c := open(t, Options{})
	c.syncing.Lock() // no checkpoints
	defer c.syncing.Unlock()
	d, line := askedFor(1)
	ref := oci.Reference{Repository: oci.Repository{Upstream: "docker.io", Name: line[8:17]}, Tag: line[:3]}
	c.hot.add(index.Record{Digest: d}, nil)
	c.touch(d, time.Now())
	c.rememberGrant(ref.Repository, d)
	c.setTag(ref, oci.Descriptor{Digest: oci.FromBytes(nil)}, false)
	defer clear(c.newTags)
	defer clear(c.touched)
	texts := map[string]string{}
	for at := range c.touched {
		texts["touched"] = at.String()
	}
	for _, at := range c.hot.lru.Keys() {
		texts["hot"] = at.String()
	}
	e, _ := c.hot.get(d)
	texts["hot record"] = e.rec.Digest.String()
	for _, at := range c.grants.Keys() {
		texts["grants"] = at.String()
	}
	known, _ := c.grants.Get(d)
	texts["grant's name"] = known[0].Name
	for _, at := range c.tags.Keys() {
		texts["tag"], texts["tag's repository"] = at.Tag, at.Name
	}
	tag, _ := c.tags.Get(ref)
	texts["tag's own"] = tag.Name
	if len(texts) != 8 {
		t.Fatal(texts)
	}
	from := uintptr(unsafe.Pointer(unsafe.StringData(line)))
	for where, text := range texts {
		if at := uintptr(unsafe.Pointer(unsafe.StringData(text))); at >= from && at < from+uintptr(len(line)) {
			t.Errorf("%s: %q is part of a request line", where, text)
		}
	}
	runtime.KeepAlive(line)
}
