package cache

// Outcome says where an answer came from. It is a metric label, and what the
// Cache-Status header is made of.
type Outcome uint8

// The outcomes. OutcomeError is for requests that got no content.
const (
	OutcomeHit   Outcome = iota // from disk or memory, or upstream said unchanged
	OutcomeMiss                 // fetched for this request
	OutcomeJoin                 // read along with somebody else's fetch
	OutcomeStale                // served without upstream's word
	OutcomePass                 // fetched for this request and not kept
	OutcomeError
)

// Outcomes lists all outcomes, in the order of their values.
func Outcomes() []Outcome {
	return []Outcome{OutcomeHit, OutcomeMiss, OutcomeJoin, OutcomeStale, OutcomePass, OutcomeError}
}

// String is the metric label.
func (o Outcome) String() string {
	return [...]string{"hit", "miss", "join", "stale", "pass", "error"}[o]
}
