package upstream

import (
	"context"
	"net/http"

	"cistern/internal/oci"
)

// Meter is told what the calls of a context cost: body bytes as they come, of error
// texts and tokens none, and pulls, each when upstream has begun to answer it. It is
// called concurrently, from the middle of reads, and must not block.
type Meter func(received, pulls uint64)

type meterKey struct{}

// WithMeter has what is asked of upstreams in a context told to a meter.
func WithMeter(ctx context.Context, m Meter) context.Context {
	return context.WithValue(ctx, meterKey{}, m)
}

// meterOf is a context's meter; one that nobody reads if it has none.
func meterOf(ctx context.Context) Meter {
	if m, ok := ctx.Value(meterKey{}).(Meter); ok {
		return m
	}
	return func(uint64, uint64) {}
}

// isPull tells whether a registry counts the query, once answered, as a pull: a GET
// of a manifest (P 4.12).
func (q *query) isPull() bool { return q.Kind == oci.KindManifest && q.method == http.MethodGet }
