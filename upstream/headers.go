package upstream

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// contentRange is a Content-Range header (RFC 9110, 14.4).
type contentRange struct {
	start, end int64 // the range is [start, end); both 0 in the form for 416
	total      int64 // -1: not known
}

// parseContentRange reads "bytes 0-99/200", "bytes 0-99/*" and "bytes */200".
func parseContentRange(s string) (contentRange, bool) {
	unit, rest, ok := strings.Cut(strings.TrimSpace(s), " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return contentRange{}, false
	}
	span, total, ok := strings.Cut(strings.TrimSpace(rest), "/")
	if !ok {
		return contentRange{}, false
	}
	r := contentRange{total: -1}
	if total != "*" {
		if r.total, ok = parseSize(total); !ok {
			return contentRange{}, false
		}
	}
	if span == "*" {
		return r, r.total >= 0
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return contentRange{}, false
	}
	a, okA := parseSize(first)
	b, okB := parseSize(last)
	if !okA || !okB || b < a || r.total >= 0 && b >= r.total {
		return contentRange{}, false
	}
	r.start, r.end = a, b+1
	return r, true
}

// parseSize reads digits only: no sign, no space, and room for one more.
func parseSize(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 62)
	return int64(n), err == nil
}

// parseRateLimit reads Docker Hub's "100;w=21600" (P 4.12).
func parseRateLimit(s string) (int64, bool) {
	n, _, _ := strings.Cut(s, ";")
	return parseSize(strings.TrimSpace(n))
}

// How long a 429 is remembered: the header's word within bounds, and a few
// seconds without it (P 4.15: not documented at Docker Hub).
const (
	defaultRetryAfter = 5 * time.Second
	minRetryAfter     = time.Second
	maxRetryAfter     = time.Minute
)

// parseRetryAfter reads seconds or a date, bounded; the default for neither.
func parseRetryAfter(s string, now time.Time) time.Duration {
	d := defaultRetryAfter
	if n, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil && n >= 0 {
		d = time.Duration(min(n, maxRetryAfter.Seconds()) * float64(time.Second))
	} else if t, err := http.ParseTime(s); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, minRetryAfter), maxRetryAfter)
}

// nextLink finds the query of the Link with rel="next"; nil if there is none.
// Only the query is of use: the target's host and path are upstream's, and
// not for our clients (P 3.23).
func nextLink(lines []string) url.Values {
	for _, line := range lines {
		for line != "" {
			var target, params string
			target, params, line = cutLink(line)
			if !isNext(params) {
				continue
			}
			if u, err := url.Parse(target); err == nil && u.RawQuery != "" {
				if q, err := url.ParseQuery(u.RawQuery); err == nil {
					return q
				}
			}
		}
	}
	return nil
}

// cutLink takes the first link off a Link header: its target and parameters.
func cutLink(s string) (target, params, rest string) {
	_, s, ok := strings.Cut(s, "<")
	if !ok {
		return "", "", ""
	}
	target, s, ok = strings.Cut(s, ">")
	if !ok {
		return "", "", ""
	}
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return target, s[:i], s[i+1:]
		}
	}
	return target, s, ""
}

func isNext(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if !strings.EqualFold(strings.TrimSpace(k), "rel") {
			continue
		}
		for rel := range strings.FieldsSeq(strings.Trim(strings.TrimSpace(v), `"`)) {
			if strings.EqualFold(rel, "next") {
				return true
			}
		}
	}
	return false
}

// mediaType is a Content-Type without its parameters, in lower case.
func mediaType(h http.Header) string {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// coding is a Content-Encoding that changes the bytes; "" for none (P 4.50).
func coding(h http.Header) string {
	c := strings.TrimSpace(h.Get("Content-Encoding"))
	if strings.EqualFold(c, "identity") {
		return ""
	}
	return c
}
