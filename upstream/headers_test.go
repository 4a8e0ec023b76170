package upstream

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestContentRange(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in   string
		want contentRange
		ok   bool
	}{
		{"bytes 0-0/1", contentRange{0, 1, 1}, true},
		{"Bytes 5-9/*", contentRange{5, 10, -1}, true},
		{"bytes */200", contentRange{0, 0, 200}, true},
		{"bytes */*", contentRange{}, false},
		{"bytes 5-4/10", contentRange{}, false},
		{"bytes 0-10/10", contentRange{}, false},
		{"bytes -1-2/10", contentRange{}, false},
		{"bytes 0-+2/10", contentRange{}, false},
		{"bytes 0-9223372036854775807/*", contentRange{}, false},
		{"bytes=0-1/2", contentRange{}, false},
		{"items 0-1/2", contentRange{}, false},
		{"", contentRange{}, false},
	} {
		got, ok := parseContentRange(tc.in)
		if ok != tc.ok || ok && got != tc.want {
			t.Errorf("%q: got %v %v, want %v %v", tc.in, got, ok, tc.want, tc.ok)
		}
	}
}

func TestRetryAfterAndRateLimit(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": defaultRetryAfter, "x": defaultRetryAfter, "-3": defaultRetryAfter, "NaN": defaultRetryAfter,
		"0": minRetryAfter, "7": 7 * time.Second, "2.5": 2500 * time.Millisecond, "86400": maxRetryAfter, "1e300": maxRetryAfter,
		now.Add(20 * time.Second).Format(http.TimeFormat): 20 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):       minRetryAfter,
		now.AddDate(9, 0, 0).Format(http.TimeFormat):      maxRetryAfter,
	} {
		if got := parseRetryAfter(in, now); got != want {
			t.Errorf("Retry-After %q: got %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]int64{"100;w=21600": 100, " 76;w=1": 76, "0": 0} {
		if got, ok := parseRateLimit(in); !ok || got != want {
			t.Errorf("ratelimit %q: got %d %v", in, got, ok)
		}
	}
	for _, in := range []string{"", ";w=1", "-1", "many"} {
		if _, ok := parseRateLimit(in); ok {
			t.Errorf("ratelimit %q is accepted", in)
		}
	}
}

func TestNextLink(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		lines []string
		want  url.Values
	}{
		{nil, nil},
		{[]string{`</v2/a/tags/list?n=2&last=b>; rel="next"`}, url.Values{"n": {"2"}, "last": {"b"}}},
		{[]string{`<https://other/x?last=b%2Cc&next_page=tok>; rel=next`}, url.Values{"last": {"b,c"}, "next_page": {"tok"}}},
		{[]string{`</first?last=1>; rel="first", </n,x?last=2>; title="a,b"; rel="prev next"`}, url.Values{"last": {"2"}}},
		{[]string{`</first?last=1>; rel="first"`, `</n?last=2>; REL=Next`}, url.Values{"last": {"2"}}},
		{[]string{`</n>; rel="next"`}, nil},
		{[]string{`</n?last=1; rel="next"`}, nil},
		{[]string{`<%zz?last=1>; rel="next"`}, nil},
		{[]string{`garbage`}, nil},
	} {
		if got := nextLink(tc.lines); got.Encode() != tc.want.Encode() || (got == nil) != (tc.want == nil) {
			t.Errorf("%q: got %v, want %v", tc.lines, got, tc.want)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-99/200")
	f.Add("bytes */200")
	f.Fuzz(func(t *testing.T, s string) {
		r, ok := parseContentRange(s)
		if ok && (r.start < 0 || r.end < r.start || r.total >= 0 && r.end > r.total || r.end == 0 && r.total < 0) {
			t.Fatalf("%q gives %v", s, r)
		}
	})
}

func FuzzLink(f *testing.F) {
	f.Add(`</v2/a/tags/list?n=2&last=b>; rel="next"`)
	f.Add(`<a>; rel="x", <b?c>; rel="next"`)
	f.Fuzz(func(t *testing.T, s string) {
		if q := nextLink([]string{s}); q != nil && !(strings.Contains(s, "<") && strings.Contains(s, "?") && strings.Contains(strings.ToLower(s), "next")) {
			t.Fatalf("%q gives %v", s, q)
		}
	})
}

func FuzzLimits(f *testing.F) {
	f.Add("100;w=21600")
	f.Add("Fri, 02 Jan 2026 03:04:05 GMT")
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := parseRateLimit(s); ok && n < 0 {
			t.Fatalf("%q gives %d", s, n)
		}
		if d := parseRetryAfter(s, time.Unix(0, 0)); d < minRetryAfter || d > maxRetryAfter {
			t.Fatalf("%q gives %s", s, d)
		}
	})
}
