package cache

import "time"

// verdict is what to do with a tag that is known here.
type verdict uint8

const (
	serve      verdict = iota // without asking
	serveStale                // and ask in the background
	askOrStale                // ask, and serve the copy if there is no answer
	ask                       // the copy is too old to stand in
)

// judge decides on a tag from the age of upstream's last word on it, for how
// long that word is good, how long it may be stood upon when upstream is
// silent, and whether upstream is known to be unusable. A negative age, from a
// clock that was set back, is that of a word that has just become too old: a
// machine that comes up in 1970 believes no certificate, so upstream is silent,
// and what is here must do.
func judge(age, fresh, staleIfError time.Duration, healthy bool) verdict {
	if age < 0 {
		age = fresh
	}
	switch {
	case age < fresh:
		return serve
	case age >= fresh+staleIfError:
		return ask
	case !healthy:
		return serveStale
	}
	return askOrStale
}
