package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with the configuration.
type Problem struct {
	// Source is the file as it was named, the flag with its dashes, or the environment variable.
	Source string
	// Line is the line in the file, from 1; 0 for flags, variables, and files that could not be read at all.
	Line int
	// Key is the key in the file, such as cache.max_size; empty if the problem is not with one key.
	Key string
	// Wrong says what is wrong, Fix what to do about it; Fix may be empty.
	Wrong, Fix string
}

// String gives the problem on one line: "file:line: key: what is wrong; the fix".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Source)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Wrong)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Problems is the error of Load: everything that is wrong with a configuration, the file's own problems first and by
// line. It is never empty. The process exits with code 2.
type Problems []Problem

// maxPrinted is how many problems are printed: a file with more of them is no configuration.
const maxPrinted = 100

// Error prints one problem a line.
func (ps Problems) Error() string {
	shown := ps[:min(len(ps), maxPrinted)]
	lines := make([]string, len(shown), len(shown)+1)
	for i, p := range shown {
		lines[i] = p.String()
	}
	if more := len(ps) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "\n")
}

// sorted puts problems with a line first, by line; the others keep their order.
func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if (a.Line == 0) != (b.Line == 0) {
			return cmp.Compare(b.Line, a.Line)
		}
		return cmp.Compare(a.Line, b.Line)
	})
	return ps
}

// flaw is what a parser of a single value returns: what is wrong, and the fix.
type flaw struct{ wrong, fix string }

// Error makes a flaw an error; Problem prints it with its place.
func (f flaw) Error() string { return f.wrong + "; " + f.fix }
