package upstream

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"cistern/internal/oci"
)

// Error is a failure of one operation. Its text names the operation, the host
// and what happened; it holds no secret and no URL with a query.
type Error struct {
	Op         string        // "manifest library/nginx:latest"
	Host       string        // who failed: an endpoint, a token server or a redirect's target
	Status     int           // HTTP status; 0: there was no answer
	Code       string        // the registry's own error code, "" none
	RetryAfter time.Duration // with oci.ErrLimited
	// Class is one of oci.ErrNotFound, ErrDenied, ErrLimited, ErrUnavailable
	// and ErrCorrupt; nil only when the caller's context ended.
	Class error
	Err   error // cause; may be nil

	fault   fault
	counted bool // the endpoint has been told
}

// Error gives "operation: host: what".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Op != "" && e.Host != "" {
		b.WriteString(": ")
	}
	b.WriteString(e.Host)
	if e.Status != 0 {
		fmt.Fprintf(&b, ": answered %d %s", e.Status, http.StatusText(e.Status))
		if e.Code != "" {
			b.WriteString(" (" + e.Code + ")")
		}
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches the class.
func (e *Error) Is(target error) bool { return target == e.Class }

// fault says what a failure means for the call's retries and for the
// endpoint's breaker.
type fault uint8

const (
	faultNone    fault = iota // an answer: neither
	faultPassing              // may be gone at the next try; counts against the endpoint
	faultLasting              // will not pass by trying (a certificate); counts against the endpoint
	faultAway                 // of a redirect's target: tried again, but the endpoint itself is well
	faultContent              // wrong bytes: tried once more, the endpoint goes last
)

// fail makes an error of a class, without a fault of the endpoint.
func fail(class error, host, format string, args ...any) *Error {
	return &Error{Host: host, Class: class, Err: fmt.Errorf(format, args...)}
}

// wrapTransport tells what a failed round trip or body read means. If ctx has
// ended, the failure is nobody's fault. away: a redirect's target failed, and
// not the endpoint.
func wrapTransport(ctx context.Context, host string, away bool, err error) error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	if ctx.Err() != nil {
		return ended(ctx, host)
	}
	e := &Error{Host: host, Class: oci.ErrUnavailable, Err: err, fault: faultPassing}
	var bad *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var refused *refusedError
	switch {
	case errors.As(err, &refused):
		e.fault, e.Err = faultNone, refused
		return e
	case errors.As(err, &bad):
		e.fault, e.Err = faultLasting, explainCertificate(bad)
	case errors.As(err, &record):
		e.fault, e.Err = faultLasting, errors.New("does not speak TLS: write http:// in endpoints if it is a plain registry")
	case errors.As(err, &alert):
		e.fault = faultLasting
	case errors.Is(err, errProxy):
		e.fault = faultLasting
	case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		e.Err = fmt.Errorf("closed the connection before an answer: %w", err)
	}
	if away && e.fault == faultPassing {
		e.fault = faultAway
	} else if away {
		e.fault = faultNone
	}
	return e
}

// ended is the error of a call whose own context is over. A deadline that
// passed while waiting for upstream reads as unavailable to the caller; it is
// never counted against the endpoint.
func ended(ctx context.Context, host string) *Error {
	e := &Error{Host: host, Err: context.Cause(ctx)}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(e.Err, errClosed) {
		e.Class = oci.ErrUnavailable
	}
	return e
}

// explainCertificate names the certificate, since "unknown authority" alone
// does not say whose, nor what to do.
func explainCertificate(err *tls.CertificateVerificationError) error {
	if len(err.UnverifiedCertificates) == 0 {
		return err
	}
	c := err.UnverifiedCertificates[0]
	return fmt.Errorf("certificate %s, issued by %s, valid until %s, is not trusted (ca_file adds an authority): %w",
		oci.Quote(c.Subject.String()), oci.Quote(c.Issuer.String()), c.NotAfter.UTC().Format(time.DateOnly), err)
}

// statusError classifies an answer that is not a success. body is the start of
// the answer's: only the error's code is taken from it, since its text is
// upstream's and could hold what we sent.
func statusError(status int, h http.Header, body []byte) *Error {
	e := &Error{Status: status, Code: errorCode(body)}
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.Class = oci.ErrDenied
	case status == http.StatusTooManyRequests:
		e.Class, e.RetryAfter = oci.ErrLimited, parseRetryAfter(h.Get("Retry-After"), time.Now())
	case status == http.StatusInternalServerError, status == http.StatusBadGateway, status == http.StatusServiceUnavailable,
		status == http.StatusGatewayTimeout, status == http.StatusRequestTimeout:
		e.Class, e.fault = oci.ErrUnavailable, faultPassing
	case status >= 500:
		e.Class = oci.ErrUnavailable
	case status >= 400:
		e.Class = oci.ErrNotFound
	default:
		e.Class = oci.ErrCorrupt
	}
	return e
}

// errorCode finds the first code of a registry's JSON error body.
func errorCode(body []byte) string {
	var doc struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	c := doc.Errors[0].Code
	if len(c) > 40 || strings.Trim(c, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
		return ""
	}
	return c
}
