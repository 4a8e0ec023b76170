package upstream

import (
	"errors"

	"cistern/internal/oci"
)

// Endpoints of one upstream may differ in what they have. That one lacks something
// is the last word only where no other one may have it.

// elsewhere tells whether what an endpoint lacks is to be asked of another one: that
// was not asked yet, or has failed. For a blob, one that is down is waited for: nobody
// asks for one that he does not know of. Anything else may well be nowhere, and an
// endpoint that is gone for good must not hide that.
func (u *Upstream) elsewhere(c *call, err error) bool {
	if !errors.Is(err, oci.ErrNotFound) {
		return false
	}
	for _, ep := range u.endpoints {
		v := c.visits[ep]
		if v == nil && (ep.healthy() || c.q.Kind == oci.KindBlob) || v != nil && v.err != nil && ep.healthy() {
			return true
		}
	}
	return false
}

// unsure makes it an unavailable blob that is lacking here while another endpoint is
// down.
func (u *Upstream) unsure(c *call, err error) error {
	var e *Error
	if c.q.Kind != oci.KindBlob || !errors.As(err, &e) || e.Class != oci.ErrNotFound {
		return err
	}
	for _, ep := range u.endpoints {
		if v := c.visits[ep]; !ep.healthy() && (v == nil || !v.lacks) {
			maybe := *e
			maybe.Class, maybe.Err = oci.ErrUnavailable, errors.New("and an endpoint that may have it is down")
			return &maybe
		}
	}
	return err
}
