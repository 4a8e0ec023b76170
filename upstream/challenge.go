package upstream

import "strings"

// challenge is one demand of a WWW-Authenticate header (RFC 7235).
type challenge struct {
	scheme string            // lower case: "bearer", "basic"
	params map[string]string // names in lower case
}

// parseChallenges reads all lines of a WWW-Authenticate header: several
// challenges in a line, quoted commas, names in any case (P 4.1). What cannot
// be read is skipped to the next comma; it never fails.
func parseChallenges(lines []string) []challenge {
	var all []challenge
	for _, line := range lines {
		p := challengeParser{rest: line}
		all = append(all, p.challenges()...)
	}
	return all
}

// choose gives the challenge to answer: Bearer with a realm before Basic.
func choose(all []challenge) (challenge, bool) {
	for _, c := range all {
		if c.scheme == "bearer" && c.params["realm"] != "" {
			return c, true
		}
	}
	for _, c := range all {
		if c.scheme == "basic" {
			return c, true
		}
	}
	return challenge{}, false
}

// same tells whether two challenges ask for the same token.
func (c challenge) same(o challenge) bool {
	return c.scheme == o.scheme && c.params["realm"] == o.params["realm"] && c.params["service"] == o.params["service"]
}

type challengeParser struct{ rest string }

// challenges reads comma separated elements. An element is a parameter of the
// challenge before it if a '=' follows its first token at once, and the start
// of a new challenge otherwise.
func (p *challengeParser) challenges() []challenge {
	var all []challenge
	for {
		p.rest = strings.TrimLeft(p.rest, " \t,")
		if p.rest == "" {
			return all
		}
		name := p.token()
		if name == "" {
			p.skip()
			continue
		}
		if len(all) > 0 && p.param(name, all[len(all)-1].params) {
			continue
		}
		c := challenge{scheme: strings.ToLower(name), params: map[string]string{}}
		all = append(all, c)
		p.space()
		if first := p.token(); first != "" && !p.param(first, c.params) {
			p.skip() // token68, or nonsense
		}
	}
}

// param reads the "=value" behind a name; the first value of a name counts.
func (p *challengeParser) param(name string, params map[string]string) bool {
	before := p.rest
	p.space()
	if !strings.HasPrefix(p.rest, "=") {
		p.rest = before
		return false
	}
	p.rest = p.rest[1:]
	p.space()
	var value string
	if strings.HasPrefix(p.rest, `"`) {
		value = p.quoted()
	} else {
		value = p.token()
		p.skip()
	}
	name = strings.ToLower(name)
	if _, ok := params[name]; !ok {
		params[name] = value
	}
	return true
}

func (p *challengeParser) space() { p.rest = strings.TrimLeft(p.rest, " \t") }

// skip drops everything up to the next comma outside quotes.
func (p *challengeParser) skip() {
	for p.rest != "" && p.rest[0] != ',' {
		if p.rest[0] == '"' {
			p.quoted()
		} else {
			p.rest = p.rest[1:]
		}
	}
}

func (p *challengeParser) token() string {
	i := 0
	for i < len(p.rest) && tokenChar(p.rest[i]) {
		i++
	}
	t := p.rest[:i]
	p.rest = p.rest[i:]
	return t
}

// quoted reads a quoted string; one that is not closed ends with the line.
func (p *challengeParser) quoted() string {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String()
		case c == '\\' && i+1 < len(p.rest):
			i++
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	p.rest = ""
	return b.String()
}

// tokenChar is RFC 9110's tchar, and the '/' and ':' that servers forget to
// quote in a realm.
func tokenChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~/:", c) >= 0
}
