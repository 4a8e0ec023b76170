package cache

import (
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// The reasons of Content that need no more words.
const (
	reasonTagNew     = "tag never seen"
	reasonTagMoved   = "tag moved"
	reasonWindow     = "window expired"
	reasonNotGranted = "not granted"
)

// Why tags go.
const (
	whyPurged   = "purged"           // by `cistern rm`, as blobs are
	whyNotFound = "gone at upstream" // which has answered 404
)

// former is what is remembered of a tag.
type former struct {
	named oci.Digest // before it moved
	went  string     // why it was made unknown; "": it was not
	at    time.Time  // when
}

// Absence says why a digest is not here.
type Absence struct {
	Why      string    `json:"why"`         // "never seen", "evicted", "purged", "damaged", "not verified", "not kept" (no room, or a disk that failed), "nothing is kept"
	At       time.Time `json:"at,omitzero"` // when it went
	LastUsed time.Time `json:"last_used,omitzero"`
	Size     int64     `json:"size,omitzero"` // bytes
}

// String is the absence in a line of a log.
func (a Absence) String() string {
	if a.At.IsZero() {
		return a.Why
	}
	s := a.Why + " " + a.At.UTC().Format(time.RFC3339)
	if !a.LastUsed.IsZero() {
		s += ", last used " + a.LastUsed.UTC().Format(time.RFC3339)
	}
	return s
}

// missed says why a digest is not here, or was not before it came again. What went
// before as many others as are remembered counts as never seen.
func (c *Cache) missed(d oci.Digest) Absence {
	never := Absence{Why: "never seen"}
	if c.store == nil {
		return Absence{Why: "nothing is kept"}
	}
	wrong, sent := c.unverified.Peek(d)
	passed, unkept := c.unkept.Peek(d)
	c.mu.Lock()
	how := c.gone[d].how
	if how.Why == 0 {
		how = c.leaving[d].how
	}
	c.mu.Unlock()
	if how.Why == 0 {
		var err error
		if how, _, err = c.idx.Load().Departed(d); err != nil {
			c.indexFailed(err)
		}
	}
	if sent && wrong.After(how.At) && !passed.After(wrong) {
		return Absence{Why: "not verified", At: wrong}
	}
	if unkept && passed.After(how.At) {
		return Absence{Why: "not kept", At: passed}
	}
	switch how.Why {
	case index.Evicted:
		never.Why = "evicted"
	case index.Removed:
		never.Why = whyPurged
	case index.Damaged:
		never.Why = "damaged"
	default:
		return never
	}
	return Absence{never.Why, how.At, how.LastUsed, how.Size}
}

// also puts a reason before those that are there; nothing on nil.
func (c *Content) also(why string) *Content {
	if c != nil && c.Reason != "" {
		why += "; " + c.Reason
	}
	if c != nil {
		c.Reason = why
	}
	return c
}

// because notes why content that was asked for of upstream was not here.
func (c *Cache) because(content *Content) *Content {
	if content != nil && content.Reason == "" && (content.Outcome == OutcomeMiss || content.Outcome == OutcomePass) {
		content.Reason = c.missed(content.Digest).String()
	}
	if content != nil && content.Reader != nil && content.Reader.fill != nil && content.Reader.fill.untaken.Load() {
		c.unkept.Add(content.Digest, time.Now()) // which is why, the next time
	}
	return content
}

// becauseOfTag notes why content was asked for of upstream under a tag that was not known
// here.
func (c *Cache) becauseOfTag(ref oci.Reference, content *Content) *Content {
	if f, ok := c.formers.Peek(ref); ok && f.went != "" {
		return content.also("tag " + Absence{Why: f.went, At: f.at}.String())
	}
	return content.also(reasonTagNew)
}
