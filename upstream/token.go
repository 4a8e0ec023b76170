package upstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cistern/internal/oci"
)

const (
	tokenLimit    = 15 * time.Second // P 4.7
	maxTokenBody  = 1 << 20
	minTokenLife  = time.Minute // also when expires_in is absent (P 4.3)
	maxTokenLife  = 24 * time.Hour
	maxHops       = 5
	clientID      = "cistern"
	youngToken    = 5 * time.Second // a token that is refused so early will not be better the next time
	deniedMemory  = 10 * time.Second
	refusedMemory = time.Minute // of a 401 to credentials, for the same scope
	refreshPause  = 5 * time.Second
	tokensKept    = 1024
)

// tokenKey is what a token is good for.
type tokenKey struct {
	account               uint64 // generation of the credentials; 0: anonymous
	realm, service, scope string
}

// String is the key of the shared fetch.
func (k tokenKey) String() string {
	return strconv.FormatUint(k.account, 10) + "\x00" + k.realm + "\x00" + k.service + "\x00" + k.scope
}

// token is a bearer token. Its times come from the moment it was asked for, so
// that neither a slow answer nor a wrong clock makes it last too long.
type token struct {
	value   Secret
	private bool // got with credentials
	born    time.Time
	renew   time.Time // fetch another one in the background from here on
	expires time.Time
}

// tokenAnswer is what token servers say. expires_in is a number, by some
// quoted; issued_at may come from a wrong clock.
type tokenAnswer struct {
	Token       string          `json:"token"`
	AccessToken string          `json:"access_token"`
	ExpiresIn   json.RawMessage `json:"expires_in"`
	IssuedAt    string          `json:"issued_at"`
}

// parseToken reads a token server's answer, given at born and stamped date by
// the server itself.
func parseToken(b []byte, born, date time.Time) (*token, error) {
	var a tokenAnswer
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, errors.New("the token answer is not JSON")
	}
	if a.Token == "" {
		a.Token = a.AccessToken
	}
	if a.Token == "" || !headerSafe(a.Token) {
		return nil, errors.New("the token answer holds no usable token")
	}
	life := tokenLife(a, date)
	return &token{value: Secret(a.Token), born: born, renew: born.Add(life * 2 / 3), expires: born.Add(life)}, nil
}

// tokenLife: at least a minute; a token that the server itself made earlier,
// by its own clock, has been living since then.
func tokenLife(a tokenAnswer, date time.Time) time.Duration {
	life := minTokenLife
	if n, err := strconv.ParseFloat(strings.Trim(string(a.ExpiresIn), `"`), 64); err == nil && n >= minTokenLife.Seconds() {
		life = time.Duration(min(n, maxTokenLife.Seconds()) * float64(time.Second))
	}
	issued, err := time.Parse(time.RFC3339, a.IssuedAt)
	if err != nil || date.IsZero() {
		return life
	}
	if age := date.Sub(issued); age > 0 && life-age >= minTokenLife {
		life -= age
	}
	return life
}

// headerSafe tells whether a token can stand in a header.
func headerSafe(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// fetchToken asks a token server: by POST for an identity token, by GET
// otherwise and where POST is not known (P 4.6).
func (a *auth) fetchToken(ctx context.Context, k tokenKey, realm *url.URL, cr Credentials) (*token, error) {
	if cr.IdentityToken != "" {
		t, err := a.postToken(ctx, k, realm, cr)
		var e *Error
		if err == nil || cr.Password == "" || !errors.As(err, &e) || !postUnknown(e.Status) {
			return t, err
		}
	}
	u := *realm
	q := u.Query()
	if k.service != noService {
		q.Set("service", k.service)
	}
	q.Set("scope", k.scope)
	u.RawQuery = q.Encode()
	req := &http.Request{Method: http.MethodGet, URL: &u, Header: http.Header{}}
	if cr.Password != "" {
		req.Header.Set("Authorization", basicHeader(cr).Reveal())
	}
	return a.askToken(ctx, req, cr)
}

func postUnknown(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed:
		return true
	}
	return false
}

func (a *auth) postToken(ctx context.Context, k tokenKey, realm *url.URL, cr Credentials) (*token, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {cr.IdentityToken.Reveal()}, "scope": {k.scope}, "client_id": {clientID}}
	if k.service != noService {
		form.Set("service", k.service)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fail(oci.ErrDenied, realm.Host, "the token realm is not a URL")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return a.askToken(ctx, req, cr)
}

// basicHeader is the Authorization value of the Basic scheme.
func basicHeader(cr Credentials) Secret {
	return Secret("Basic " + base64.StdEncoding.EncodeToString([]byte(cr.Username+":"+cr.Password.Reveal())))
}

// askToken sends a token request and reads the answer.
func (a *auth) askToken(ctx context.Context, req *http.Request, cr Credentials) (*token, error) {
	host, born := req.URL.Host, a.now()
	resp, err := a.sendToken(ctx, req)
	if err != nil {
		return nil, wrapTransport(ctx, host, false, fmt.Errorf("token server: %w", err))
	}
	defer func() { _ = resp.Body.Close() }() // the answer was read or is of no use
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBody+1))
	switch {
	case err != nil:
		return nil, wrapTransport(ctx, host, false, fmt.Errorf("token server: %w", err))
	case resp.StatusCode != http.StatusOK:
		return nil, tokenRefused(resp, host, body, cr)
	case len(body) > maxTokenBody:
		return nil, fail(oci.ErrCorrupt, host, "the token answer is longer than %d bytes", maxTokenBody)
	case coding(resp.Header) != "":
		return nil, fail(oci.ErrCorrupt, host, "the token answer has Content-Encoding %s", oci.Quote(coding(resp.Header)))
	}
	date, _ := http.ParseTime(resp.Header.Get("Date")) // zero time if there is none
	t, err := parseToken(body, born, date)
	if err != nil {
		return nil, fail(oci.ErrCorrupt, host, "%w", err)
	}
	t.private = !cr.none()
	return t, nil
}

// sendToken follows redirects of GET: the credentials stay behind at any
// change of origin. A POST carries them in its body and is not followed.
func (a *auth) sendToken(ctx context.Context, req *http.Request) (*http.Response, error) {
	for hop := 0; ; hop++ {
		req = req.WithContext(ctx)
		req.Header.Set("User-Agent", a.userAgent)
		req.Header.Set("Accept-Encoding", "identity")
		resp, err := a.send(oci.KindOther, req)
		if err != nil || !isRedirect(resp.StatusCode) || req.Method != http.MethodGet {
			return resp, err
		}
		drain(resp)
		next, err := redirectTarget(req.URL, resp.Header.Get("Location"), hop)
		if err != nil {
			return nil, err
		}
		header := req.Header.Clone()
		if !sameOrigin(req.URL, next) {
			header.Del("Authorization")
		}
		req = &http.Request{Method: http.MethodGet, URL: next, Header: header}
	}
}

// tokenRefused classifies a token server's refusal.
func tokenRefused(resp *http.Response, host string, body []byte, cr Credentials) error {
	e := statusError(resp.StatusCode, resp.Header, body)
	e.Host = host
	if e.Class == oci.ErrNotFound {
		e.Class = oci.ErrDenied // a token server has nothing to find
	}
	e.Err = fmt.Errorf("token server, asked %s", cr.describe())
	return e
}
