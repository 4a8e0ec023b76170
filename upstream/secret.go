package upstream

import (
	"fmt"
	"io"
)

// Secret is a password or token without a printable form: every way of
// formatting or marshalling it gives "[secret]".
type Secret string

const redacted = "[secret]"

// String gives "[secret]".
func (Secret) String() string { return redacted }

// GoString gives "[secret]", for %#v.
func (Secret) GoString() string { return redacted }

// Format writes "[secret]" for every verb; without it %x would print the value.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText gives "[secret]"; JSON and YAML encoders use it.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Reveal gives the value. Call it where the value is put on the wire, not before.
func (s Secret) Reveal() string { return string(s) }

// Credentials are an account of an upstream. The zero value is no account.
type Credentials struct {
	Username      string
	Password      Secret
	IdentityToken Secret // a refresh token; tried first, by POST (P 4.37, 4.61)
}

// none tells whether there is nothing to prove an account with.
func (c Credentials) none() bool { return c.Password == "" && c.IdentityToken == "" }
