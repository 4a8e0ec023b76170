// Package script drives a daemon with upstreams and clients that misbehave exactly as a script says, byte by byte. Scripts are
// txtar files: the commands at the top (see commands.go) are run in order by testscript, the files below them hold what
// origins answer (rules) and what raw clients send (steps). A new fault is a new file.
//
// It is not a registry and not a client library: whatever a script does not mention, the origin answers as an honest
// registry would, and that is all it can do.
package script

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A Rule is what an origin does with the requests that match it.
type Rule struct {
	Match  *regexp.Regexp // of "METHOD URI"
	Unless *regexp.Regexp // of any "Name: value" header line; nil: no condition
	Times  int            // how often the rule is used before it is passed over; 0: always
	Steps  []Step
}

// A Step is one thing to do on a connection.
type Step struct {
	Verb string
	Args []string
	Line int
}

// verbs are the steps with the least and the most arguments that they take.
//
//	> TEXT          send the line and CRLF
//	text TEXT       send the text as it is, without a line end
//	body N [A [B]]  send the bytes [A,B) of blob N; negative: from its end
//	zeros N         send N zero bytes
//	repeat N TEXT   send the text N times
//	hex DIGITS      send these bytes
//	answer S [H..]  send a whole answer with status S, further headers "Name: value", and a short JSON body
//	honest [H..]    answer as an honest registry would, with further headers
//	pause D         do nothing for the duration
//	await E         do nothing until the script says "release E"
//	stall           do nothing until the other side or the script is done
//	fin             close the connection
//	rst             reset the connection
//	expect RE       clients: read a line, which must match
//	drain           clients: read to the end of the connection
//	eof             clients: the connection must end here, after at most a blank rest
var verbs = map[string][2]int{
	">": {0, 1}, "text": {1, 1}, "body": {1, 3}, "zeros": {1, 1}, "repeat": {2, 2}, "hex": {1, 1}, "answer": {1, 99}, "honest": {0, 99}, "pause": {1, 1},
	"await": {1, 1}, "stall": {0, 0}, "fin": {0, 0}, "rst": {0, 0}, "expect": {1, 1}, "drain": {0, 0}, "eof": {0, 0},
}

// ParseRules reads a rule file: "on REGEXP [unless REGEXP] [xN]" lines, each followed by its steps. Words are separated by spaces;
// single quotes keep spaces in a word. Lines that begin with # are comments.
func ParseRules(text string) ([]Rule, error) {
	var rules []Rule
	for n, line := range lines(text) {
		if rest, ok := strings.CutPrefix(line, "on "); ok {
			r, err := parseOn(rest)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			rules = append(rules, r)
			continue
		}
		step, err := parseStep(line, n)
		if err != nil {
			return nil, err
		}
		if len(rules) == 0 {
			return nil, fmt.Errorf("line %d: a step before the first \"on\"", n)
		}
		r := &rules[len(rules)-1]
		r.Steps = append(r.Steps, step)
	}
	return rules, nil
}

// ParseSteps reads a file of steps without rules: a raw client.
func ParseSteps(text string) ([]Step, error) {
	var steps []Step
	for n, line := range lines(text) {
		step, err := parseStep(line, n)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return steps, nil
}

// lines yields the lines that are not blank or comments, with their numbers.
func lines(text string) func(func(int, string) bool) {
	return func(yield func(int, string) bool) {
		n := 0
		for line := range strings.Lines(text) {
			n++
			line = strings.TrimLeft(strings.TrimRight(line, "\r\n"), " \t")
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if !yield(n, line) {
				return
			}
		}
	}
}

func parseOn(text string) (Rule, error) {
	words, err := split(text)
	if err != nil {
		return Rule{}, err
	}
	if len(words) == 0 {
		return Rule{}, fmt.Errorf("on what?")
	}
	var r Rule
	if r.Match, err = regexp.Compile(words[0]); err != nil {
		return r, err
	}
	for words = words[1:]; len(words) > 0; words = words[1:] {
		switch times, isTimes := strings.CutPrefix(words[0], "x"); {
		case words[0] == "unless" && len(words) > 1:
			if r.Unless, err = regexp.Compile(words[1]); err != nil {
				return r, err
			}
			words = words[1:]
		case isTimes:
			if r.Times, err = strconv.Atoi(times); err != nil || r.Times < 1 {
				return r, fmt.Errorf("%q is not a number of times", words[0])
			}
		default:
			return r, fmt.Errorf("unknown word %q", words[0])
		}
	}
	return r, nil
}

func parseStep(line string, n int) (Step, error) {
	verb, rest, _ := strings.Cut(line, " ")
	s := Step{Verb: verb, Line: n}
	bounds, ok := verbs[verb]
	if !ok {
		return s, fmt.Errorf("line %d: unknown step %q", n, verb)
	}
	switch verb {
	case ">", "text", "expect": // their argument is the rest of the line
		s.Args = []string{rest}
	default:
		words, err := split(rest)
		if err != nil {
			return s, fmt.Errorf("line %d: %w", n, err)
		}
		s.Args = words
	}
	if len(s.Args) < bounds[0] || len(s.Args) > bounds[1] {
		return s, fmt.Errorf("line %d: %q takes %d to %d arguments", n, verb, bounds[0], bounds[1])
	}
	return s, nil
}

// split cuts a line into words at spaces, except within single quotes.
func split(line string) ([]string, error) {
	var words []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] != '\'' {
			word, rest, _ := strings.Cut(line, " ")
			words, line = append(words, word), rest
			continue
		}
		word, rest, ok := strings.Cut(line[1:], "'")
		if !ok {
			return nil, fmt.Errorf("a quote is not closed: %s", line)
		}
		words, line = append(words, word), rest
	}
	return words, nil
}
