package scenario

import (
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
)

func TestFirstTouches(t *testing.T) {
	t.Parallel()
	const size = 3*pieceSize + 100
	isNew, touched := firstTouches([]span{
		{0, rangeSize},             // piece 0
		{100, rangeSize},           // again
		{2*pieceSize - 1, 2},       // pieces 1 and 2
		{pieceSize, 1},             // piece 1 again
		{3*pieceSize - 1, 1},       // the end of piece 2
		{3*pieceSize - 1, 101},     // and the last piece, which has 100 bytes
		{3*pieceSize + 99, 1},      // once more
		{pieceSize - 1, pieceSize}, // all were there
	}, size)
	if want := []bool{true, false, true, false, false, true, false, false}; !slices.Equal(isNew, want) {
		t.Errorf("new: %v, want %v", isNew, want)
	}
	if touched != size {
		t.Errorf("touched %d bytes, want all %d", touched, size)
	}
}

func TestSpans(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	draw := func() ([]span, []span) {
		r := rand.New(rand.NewPCG(7, 0))
		return spansAnywhere(r, size, 500), spansApart(r, size, 20)
	}
	anywhere, apart := draw()
	across := 0
	for _, s := range anywhere {
		if s.length != rangeSize || s.off < 0 || s.off+s.length > size {
			t.Errorf("%+v lies outside", s)
		}
		if first, last := s.pieces(); first != last {
			across++
		}
	}
	if across == 0 {
		t.Error("none lies across two pieces")
	}
	isNew, touched := firstTouches(apart, size)
	if slices.Contains(isNew, false) || touched != 20*pieceSize {
		t.Errorf("%v: %d bytes touched, want 20 pieces", apart, touched)
	}
	if again, apartAgain := draw(); !slices.Equal(again, anywhere) || !slices.Equal(apartAgain, apart) {
		t.Error("the same seed draws others")
	}
	if spansAnywhere(rand.New(rand.NewPCG(1, 1)), rangeSize, 1)[0] != (span{0, rangeSize}) {
		t.Error("a blob of one range has no other")
	}
}

// Each byte is compared: a wrong one, one too many, another range and a whole answer
// are noticed.
func TestGetSpan(t *testing.T) {
	t.Parallel()
	blob := []byte(strings.Repeat("0123456789", 100))
	s, l := span{200, 300}, origin.Layer{Size: int64(len(blob))}
	for name, c := range map[string]struct {
		status int
		place  string
		body   func([]byte) []byte
		fault  string
	}{
		"right":       {206, "bytes 200-499/1000", nil, ""},
		"last byte":   {206, "bytes 200-499/1000", func(b []byte) []byte { b[299] ^= 1; return b }, "byte 299 of the range is wrong"},
		"too long":    {206, "bytes 200-499/1000", func(b []byte) []byte { return append(b, 'x') }, "byte 300 of the range is wrong"},
		"too short":   {206, "bytes 200-499/1000", func(b []byte) []byte { return b[:299] }, "299 bytes, want 300"},
		"other place": {206, "bytes 0-299/1000", nil, "want 206"},
		"other size":  {206, "bytes 200-499/1001", nil, "want 206"},
		"whole":       {200, "", nil, "want 206"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") != "bytes=200-499" {
					t.Errorf("asked for %q", r.Header.Get("Range"))
				}
				body := slices.Clone(blob[200:500])
				if c.body != nil {
					body = c.body(body)
				}
				w.Header().Set("Content-Range", c.place)
				w.WriteHeader(c.status)
				_, _ = w.Write(body)
			}))
			defer srv.Close()
			client, err := load.New(load.Options{Base: srv.URL})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			got, err := getSpan(t.Context(), client, "/v2/x/blobs/y", l, s, blob[200:500])
			if c.fault == "" && (err != nil || got.Bytes != 300) {
				t.Errorf("%d bytes, %v", got.Bytes, err)
			}
			if c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)) {
				t.Errorf("%v, want %q", err, c.fault)
			}
		})
	}
}

// What telling costs is no cost of the load; where nothing is told, nothing is known.
func TestBetween(t *testing.T) {
	t.Parallel()
	got := between(peer.Allocations{Count: 100, Bytes: 1000}, peer.Allocations{Count: 130, Bytes: 1500}, peer.Allocations{Count: 1160, Bytes: 12000})
	if got != (peer.Allocations{Count: 1000, Bytes: 10000}) {
		t.Errorf("%+v", got)
	}
	if got := between(peer.Allocations{}, peer.Allocations{Count: 30}, peer.Allocations{Count: 50}); got.Count != 0 {
		t.Errorf("less than one telling: %+v", got)
	}
	none := peer.Allocations{Count: math.NaN(), Bytes: math.NaN()}
	if got := between(none, none, none); !math.IsNaN(got.Count) || !math.IsNaN(got.Bytes) {
		t.Errorf("of nothing: %+v", got)
	}
}
