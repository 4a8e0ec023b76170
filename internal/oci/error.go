package oci

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Code is an error code of the registry's JSON error body (distribution-spec,
// "Error Codes"; P 3.25).
type Code string

// The codes that Cistern answers with.
const (
	CodeBlobUnknown       Code = "BLOB_UNKNOWN"
	CodeDenied            Code = "DENIED"
	CodeDigestInvalid     Code = "DIGEST_INVALID"
	CodeManifestInvalid   Code = "MANIFEST_INVALID"
	CodeManifestUnknown   Code = "MANIFEST_UNKNOWN"
	CodeNameInvalid       Code = "NAME_INVALID"
	CodeNameUnknown       Code = "NAME_UNKNOWN"
	CodePaginationInvalid Code = "PAGINATION_NUMBER_INVALID"
	CodeTooManyRequests   Code = "TOOMANYREQUESTS"
	CodeUnauthorized      Code = "UNAUTHORIZED"
	CodeUnavailable       Code = "UNAVAILABLE"
	CodeUnknown           Code = "UNKNOWN"
	CodeUnsupported       Code = "UNSUPPORTED"
)

// Status is the HTTP status that goes with a code: the only such table.
func (c Code) Status() int {
	switch c {
	case CodeDigestInvalid, CodeManifestInvalid, CodeNameInvalid, CodePaginationInvalid:
		return http.StatusBadRequest
	case CodeUnauthorized:
		return http.StatusUnauthorized
	case CodeDenied:
		return http.StatusForbidden
	case CodeBlobUnknown, CodeManifestUnknown, CodeNameUnknown:
		return http.StatusNotFound
	case CodeUnsupported:
		return http.StatusMethodNotAllowed
	case CodeTooManyRequests:
		return http.StatusTooManyRequests
	case CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// Error is a failure that can be written to a client. Message and Detail are
// public; Err is the private cause, for logs and errors.Is only.
type Error struct {
	Code       Code
	Message    string
	Detail     any
	HTTPStatus int           // 0: the code's own status
	RetryAfter time.Duration // 0: none
	Err        error
}

// Error gives the public message with the private cause behind it.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap gives the private cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors equal by code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Status is the HTTP status to answer with.
func (e *Error) Status() int {
	if e.HTTPStatus != 0 {
		return e.HTTPStatus
	}
	return e.Code.Status()
}

// Classes of failure that callers branch on, by errors.Is. An upstream's error
// is one of them, whatever it looked like on the wire.
var (
	// ErrNotFound: upstream says that there is no such thing.
	ErrNotFound = errors.New("not found")
	// ErrDenied: upstream refuses it to this account (401 or 403).
	ErrDenied = errors.New("denied")
	// ErrLimited: upstream's rate limit (429).
	ErrLimited = errors.New("rate limited")
	// ErrUnavailable: upstream cannot be reached, stalls, or answers 5xx.
	ErrUnavailable = errors.New("unavailable")
	// ErrCorrupt: what upstream sent is not what was asked for.
	ErrCorrupt = errors.New("corrupt")
)

// Quote prepares text from outside for a message or a log line: quoted, and
// cut at 256 bytes, so that it can neither forge a line nor fill a disk.
func Quote(s string) string {
	const most = 256
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return fmt.Sprintf("%q... (%d bytes)", s[:most], len(s))
}
