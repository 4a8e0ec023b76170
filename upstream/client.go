package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"cistern/internal/oci"
)

// Upstream is the client of one named upstream. It is safe for concurrent use.
type Upstream struct {
	name      string
	userAgent string
	stall     time.Duration
	hasCreds  bool

	endpoints []*endpoint
	wire      *wire
	auth      *auth
	flights   *flights
	slots     *slots
	limits    *limits
	news      *news
	counts    *counters
}

// New checks the options and makes a client. It dials nothing, and works while
// the upstream cannot be reached.
func New(o Options) (*Upstream, error) {
	o = o.withDefaults()
	urls, err := parseEndpoints(o.Endpoints)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", o.Name, err)
	}
	g, errGuard := newGuard(o.Name, o.Network, urls)
	r, errRealms := newRealms(urls, o.TokenHosts)
	if o.MaxConnections < 1 {
		err = errors.New("max_connections: want at least 1")
	}
	if err = errors.Join(errGuard, errRealms, err); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", o.Name, err)
	}
	u := &Upstream{
		name: o.Name, userAgent: o.UserAgent, stall: o.StallTimeout, hasCreds: o.Credentials != nil,
		flights: newFlights(), slots: newSlots(o.MaxConnections), limits: newLimits(), news: newNews(), counts: newCounters(),
	}
	u.wire = newWire(o, g, u.counts)
	if u.auth, err = newAuth(o, r, u.flights, u.send); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", o.Name, err)
	}
	for _, base := range urls {
		u.endpoints = append(u.endpoints, newEndpoint(base))
	}
	return u, nil
}

// Close ends what is under way, open bodies included, and waits for the
// goroutines that it owns.
func (u *Upstream) Close() {
	u.flights.close()
	u.wire.close()
}

// Name is the configured name.
func (u *Upstream) Name() string { return u.name }

// HasCredentials tells whether an account is configured.
func (u *Upstream) HasCredentials() bool { return u.hasCreds }

// Healthy tells whether at least one endpoint's breaker is closed: nothing is
// known that speaks against asking upstream. It never blocks.
func (u *Upstream) Healthy() bool {
	for _, ep := range u.endpoints {
		if ep.healthy() {
			return true
		}
	}
	return false
}

// send is one round trip, counted.
func (u *Upstream) send(kind oci.Kind, r *http.Request) (*http.Response, error) {
	start := time.Now()
	resp, err := u.wire.roundTrip(r)
	u.counts.answered(kind, resp, time.Since(start))
	return resp, err
}

// down is the answer while every breaker is open: what the last probe found.
func (u *Upstream) down() error {
	_, _, last := u.news.state()
	e := &Error{Host: u.endpoints[0].base.Host, Class: oci.ErrUnavailable, Err: errors.New("unavailable, tried again shortly")}
	var cause *Error
	if errors.As(last, &cause) {
		e.Host, e.Status = cause.Host, cause.Status
		if cause.Err != nil {
			e.Err = fmt.Errorf("down, and not asked just now: %w", cause.Err)
		}
	}
	return e
}
