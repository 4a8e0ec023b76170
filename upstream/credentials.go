package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cistern/internal/oci"
)

const (
	credentialsFresh = 5 * time.Minute  // the source is asked again after this
	credentialsPause = 10 * time.Second // and at most this often when it fails or was refused
	credentialsBad   = 10 * time.Minute // Docker Hub locks an account out for as long (P 4.13)
	credentialsLimit = 15 * time.Second // what one call of the source may take
	refusalsToDoubt  = 3                // scopes refused in a row to credentials that worked before
)

// account is the configured credentials as last read, with what is known of
// their worth. Refused ones are not sent again until they change or ten
// minutes have passed.
type account struct {
	load    func(context.Context) (Credentials, error)
	flights *flights
	now     func() time.Time

	mu       sync.Mutex // guards what follows
	cur      Credentials
	gen      uint64 // counts changes of cur; part of a token's key
	tried    time.Time
	err      error           // of the last read
	accepted bool            // cur has worked
	refusals map[string]bool // scopes refused since it last worked
	badUntil time.Time
}

// get gives the credentials, none if there are none, and their generation.
func (a *account) get(ctx context.Context) (Credentials, uint64, error) {
	if a.load == nil {
		return Credentials{}, 0, nil
	}
	if a.due() {
		if err := a.read(ctx); err != nil {
			return Credentials{}, 0, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.gen == 0:
		return Credentials{}, 0, fail(oci.ErrUnavailable, "", "credentials: %w", a.err)
	case a.now().Before(a.badUntil):
		return Credentials{}, 0, fail(oci.ErrDenied, "", "the configured credentials were refused; they are not tried again before %s, or until they change", a.badUntil.UTC().Format(time.TimeOnly))
	}
	return a.cur, a.gen, nil
}

func (a *account) due() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	age := credentialsFresh
	if a.err != nil || a.now().Before(a.badUntil) {
		age = credentialsPause
	}
	return a.tried.IsZero() || a.now().Sub(a.tried) >= age
}

// read asks the source. An error is kept and returned by get only if there is
// nothing older to use.
func (a *account) read(ctx context.Context) error {
	_, err := a.flights.do(ctx, "credentials", credentialsLimit, func(ctx context.Context) (any, error) {
		cur, err := a.load(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.tried, a.err = a.now(), err
		if err == nil && (a.gen == 0 || cur != a.cur) {
			a.cur, a.accepted, a.refusals, a.badUntil = cur, false, map[string]bool{}, time.Time{}
			a.gen++
		}
		return nil, nil
	})
	if err != nil && ctx.Err() == nil {
		return fail(oci.ErrUnavailable, "", "credentials: %w", err)
	}
	return err
}

// works notes that the credentials of a generation were accepted.
func (a *account) works(gen uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if gen == a.gen {
		a.accepted = true
		clear(a.refusals)
	}
}

// refused notes a 401 to the credentials of a generation, and tells whether
// newer ones are there to be tried at once. A registry that says 401 for a
// repository that does not exist must not shut the account: credentials that
// have worked are doubted only after refusals for several scopes in a row.
func (a *account) refused(ctx context.Context, gen uint64, scope string) (changed bool, err error) {
	if a.reread(gen) {
		if err := a.read(ctx); err != nil {
			return false, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if gen != a.gen {
		return true, nil
	}
	a.refusals[scope] = true
	if !a.accepted || len(a.refusals) >= refusalsToDoubt {
		a.badUntil = a.now().Add(credentialsBad)
	}
	return false, nil
}

// reread tells whether the refused credentials are old enough to be read anew.
func (a *account) reread(gen uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return gen == a.gen && a.now().Sub(a.tried) >= credentialsPause
}

var errNoCredentials = errors.New("asks for credentials, and none are configured")

// describe is for messages: an account or none, never what it holds.
func (c Credentials) describe() string {
	if c.none() {
		return "anonymously"
	}
	return fmt.Sprintf("as %s", oci.Quote(c.Username))
}
