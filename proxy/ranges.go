package proxy

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"cistern/cache"
	"cistern/internal/oci"
)

// maxRanges is how many ranges one header may ask for: what lazy pullers send
// at most (P 2.55). More are ignored, which the RFC allows, since each costs a
// part's header in the answer.
const maxRanges = 1024

// unsatisfiable is a range that lies outside of the content.
type unsatisfiable struct{ size int64 }

func (e *unsatisfiable) Error() string {
	return fmt.Sprintf("the range is outside of the blob's %d bytes", e.size)
}

// asked is what parts of a blob a request is after, of whatever size that is; nil:
// all of it. Of a header that cannot be right it is the blob's first byte: enough
// to learn the size for the answer.
func asked(r *http.Request, d oci.Digest) (ranges []cache.Range) {
	lines := r.Header["Range"]
	if lines == nil {
		return nil
	}
	if is := r.Header["If-Range"]; is != nil && is[0] != etag(d.String()) {
		return nil
	}
	spec, ok := strings.CutPrefix(lines[0], "bytes=")
	if !ok || len(lines) > 1 || strings.Count(spec, ",") >= maxRanges {
		return nil
	}
	for item := range strings.SplitSeq(spec, ",") {
		if r, err := parseRange(strings.Trim(item, " \t")); err == nil && r != (cache.Range{}) {
			ranges = append(ranges, r)
		}
	}
	if ranges == nil {
		return []cache.Range{{Off: 0, End: 1}}
	}
	return ranges
}

// filterRange prepares a request's Range header for http.ServeContent, which
// answers a unit it does not know with 416 instead of the whole, takes a suffix
// of no bytes for one of a byte, and has no bound (FAULTS 0.7). What must be
// ignored is removed; a set that cannot be satisfied gives 416.
func filterRange(r *http.Request, size int64) error {
	lines := r.Header["Range"]
	if lines == nil {
		return nil
	}
	spec, ok := strings.CutPrefix(lines[0], "bytes=")
	if !ok || len(lines) > 1 || strings.Count(spec, ",") >= maxRanges {
		delete(r.Header, "Range")
		return nil
	}
	var kept []string
	for item := range strings.SplitSeq(spec, ",") {
		item = strings.Trim(item, " \t")
		if item == "" {
			continue
		}
		within, err := satisfiable(item, size)
		if err != nil {
			return rangeError(size, err)
		}
		if within {
			kept = append(kept, item)
		}
	}
	if kept == nil {
		return rangeError(size, errors.New("no byte of it exists"))
	}
	r.Header["Range"] = []string{"bytes=" + strings.Join(kept, ",")}
	return nil
}

// satisfiable tells whether a single range names at least one byte.
func satisfiable(item string, size int64) (bool, error) {
	r, err := parseRange(item)
	if r.Off < 0 {
		return size > 0, err
	}
	return err == nil && r != (cache.Range{}) && r.Off < size, err
}

// parseRange reads a single range of the form a-b, a- or -n; the last of no bytes is
// the zero Range. Numbers beyond 63 bits are beyond any blob.
func parseRange(item string) (r cache.Range, err error) {
	first, last, ok := strings.Cut(item, "-")
	if !ok {
		return r, errors.New("a range has no '-'")
	}
	r.End = -1
	if first == "" {
		n, err := position(last)
		if err != nil || n == 0 {
			return cache.Range{}, err
		}
		r.Off = -n
		return r, nil
	}
	if r.Off, err = position(first); err != nil || last == "" {
		return r, err
	}
	b, err := position(last)
	switch {
	case err != nil:
	case b < r.Off:
		err = errors.New("a range ends before it starts")
	case b < math.MaxInt64:
		r.End = b + 1
	}
	return r, err
}

// position reads a byte position: digits only, no sign.
func position(s string) (int64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, errors.New("a position is not a number")
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, errors.New("a position is beyond any blob")
	}
	return n, nil
}

func rangeError(size int64, cause error) error {
	return &oci.Error{
		Code: oci.CodeUnsupported, HTTPStatus: http.StatusRequestedRangeNotSatisfiable,
		Message: "the range cannot be satisfied: " + cause.Error(), Err: &unsatisfiable{size},
	}
}
