package origin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// tokenLife is what the token service announces and keeps to.
const tokenLife = 300 * time.Second

// tokens is the bearer token service of the synthetic registry: GET only, as
// Docker Hub's is used for pulls. Tokens carry their scope and are signed, so
// that nothing is kept. Safe for concurrent use.
type tokens struct {
	user, password string
	key            []byte
}

func newTokens(user, password string) *tokens {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails since Go 1.24
	return &tokens{user: user, password: password, key: key}
}

// challenge writes the 401 that names the token service.
func (t *tokens) challenge(w http.ResponseWriter, r *http.Request, name string) {
	c := `Bearer realm="http://` + r.Host + `/token",service="bench"`
	if name != "" {
		c += `,scope="repository:` + name + `:pull"`
	}
	w.Header().Set("WWW-Authenticate", c)
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
}

// allows tells whether the request's token is good for the repository.
func (t *tokens) allows(r *http.Request, name string) bool {
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return false
	}
	expiry, rest, _ := strings.Cut(text, ".")
	scopes, mac, _ := strings.Cut(rest, ".")
	if !hmac.Equal([]byte(mac), []byte(t.sign(expiry+"."+scopes))) {
		return false
	}
	at, err := strconv.ParseInt(expiry, 10, 64)
	if err != nil || time.Now().Unix() > at {
		return false
	}
	if name == "" {
		return true
	}
	plain, err := base64.RawURLEncoding.DecodeString(scopes)
	if err != nil {
		return false
	}
	for s := range strings.SplitSeq(string(plain), " ") {
		if s == "repository:"+name+":pull" {
			return true
		}
	}
	return false
}

// serve answers the token endpoint.
func (t *tokens) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "GET only")
		return
	}
	user, password, _ := r.BasicAuth()
	if t.user != "" && (user != t.user || password != t.password) {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong user or password")
		return
	}
	now := time.Now()
	scopes := base64.RawURLEncoding.EncodeToString([]byte(strings.Join(r.URL.Query()["scope"], " ")))
	text := strconv.FormatInt(now.Add(tokenLife).Unix(), 10) + "." + scopes
	text += "." + t.sign(text)
	w.Header().Set("Content-Type", "application/json")
	// The client that does not take its token has no use for an error.
	_ = json.NewEncoder(w).Encode(map[string]any{
		"token": text, "access_token": text, "expires_in": int(tokenLife.Seconds()), "issued_at": now.UTC().Format(time.RFC3339),
	})
}

func (t *tokens) sign(text string) string {
	m := hmac.New(sha256.New, t.key)
	m.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}
