package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"cistern/internal/oci"
	"cistern/upstream"
)

// statusClientGone is what the log and the metrics say of a client that left
// before its answer; it is never written to a connection.
const statusClientGone = 499

// explain turns a failure into what the client is told (P section 7.1). In
// mirror mode the client has another source, and the reply is the one that
// makes it turn there at once: 404 for a blob whatever the cause, which stands
// in the message; 503 for a manifest unless upstream itself said no. In direct
// mode it gets the honest status.
func explain(kind oci.Kind, direct bool, name string, err error) *oci.Error {
	var own *oci.Error
	if errors.As(err, &own) {
		return own
	}
	e := &oci.Error{Err: err, Detail: detail(err)}
	class, status := classify(err)
	denied := errors.Is(err, oci.ErrDenied)
	switch {
	case class == "" && kind == oci.KindBlob && !direct:
		e.Code, e.Message = oci.CodeBlobUnknown, "cannot get "+name+": an error inside the cache"
	case class == "":
		e.Code, e.Message = oci.CodeUnknown, "an error inside the cache"
	case denied && direct:
		e.Code, e.Message = oci.CodeDenied, "upstream does not let this cache read "+name
	case errors.Is(err, oci.ErrNotFound) || denied:
		e.Code, e.Message = unknownCode(kind), "upstream "+map[bool]string{true: "does not let this cache read ", false: "does not have "}[denied]+name
	case kind == oci.KindBlob && !direct:
		e.Code, e.Message = oci.CodeBlobUnknown, "cannot get "+name+": upstream is "+class
	case errors.Is(err, oci.ErrLimited) && direct:
		e.Code, e.Message = oci.CodeTooManyRequests, "cannot get "+name+": upstream's rate limit is reached"
	default:
		e.Code, e.Message = oci.CodeUnavailable, "cannot get "+name+": upstream is "+class
		if direct {
			e.HTTPStatus = status
		}
	}
	if s := e.Status(); s == http.StatusTooManyRequests || s >= 500 {
		e.RetryAfter = max(retryAfter(err), time.Second)
	}
	return e
}

// classify names the class of a failure and the status it has in direct mode.
func classify(err error) (class string, status int) {
	switch {
	case errors.Is(err, oci.ErrNotFound), errors.Is(err, oci.ErrDenied):
		return "refusing", http.StatusNotFound
	case errors.Is(err, oci.ErrLimited):
		return "rate limited", http.StatusTooManyRequests
	case errors.Is(err, oci.ErrCorrupt):
		return "sending wrong content", http.StatusBadGateway
	case errors.Is(err, context.DeadlineExceeded):
		return "too slow", http.StatusGatewayTimeout
	case errors.Is(err, oci.ErrUnavailable):
		return "unavailable", http.StatusServiceUnavailable
	}
	return "", http.StatusInternalServerError
}

func unknownCode(k oci.Kind) oci.Code {
	switch k {
	case oci.KindBlob:
		return oci.CodeBlobUnknown
	case oci.KindTags:
		return oci.CodeNameUnknown
	}
	return oci.CodeManifestUnknown
}

// detail is the public part of an upstream's error: its texts hold no secrets
// and no signed addresses.
func detail(err error) any {
	var u *upstream.Error
	if !errors.As(err, &u) {
		return nil
	}
	return map[string]string{"upstream": u.Error()}
}

func retryAfter(err error) time.Duration {
	var u *upstream.Error
	if errors.As(err, &u) {
		return u.RetryAfter
	}
	return 0
}

// writeError writes the registry's JSON error body (P 3.25); a HEAD has none.
func writeError(w http.ResponseWriter, r *http.Request, e *oci.Error) {
	type item struct {
		Code    oci.Code `json:"code"`
		Message string   `json:"message"`
		Detail  any      `json:"detail,omitempty"`
	}
	body, err := json.Marshal(map[string][]item{"errors": {{e.Code, e.Message, e.Detail}}})
	if err != nil {
		body = []byte(`{"errors":[{"code":"UNKNOWN","message":"an error that cannot be described"}]}`)
	}
	h := w.Header()
	for _, k := range []string{"Etag", "Accept-Ranges", "Docker-Content-Digest", "Age", "Cache-Status", "Content-Encoding"} {
		h.Del(k)
	}
	h.Set("Content-Type", oci.MediaTypeJSON)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(e.Status())
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client's going is no failure of ours
	}
}
