package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// The file is walked as nodes rather than decoded into structs: only so is every unknown key, duplicate and bad value
// found in one go, each with its line (the library's KnownFields has the lines in error texts alone).

// maxNodes bounds the walk. A file of 1 MiB holds fewer nodes; aliases of aliases can multiply them.
const maxNodes = 1 << 19

// value is one value to be taken over: a node of the file, or the text of a flag or variable.
type value struct {
	path string // its key, from the root
	at   origin
	node *yaml.Node // nil outside the file
	text string     // outside the file
}

// fields are the keys of one section, and what takes their values.
type fields map[string]func(l *loader, v value)

// resolved is the node itself, or what it is an alias of.
func (v value) resolved() *yaml.Node {
	if v.node.Kind == yaml.AliasNode {
		return v.node.Alias
	}
	return v.node
}

// isNull reports whether the value was left empty.
func (v value) isNull() bool {
	return v.node != nil && v.resolved().ShortTag() == "!!null"
}

// spend counts a visited node and reports whether the walk may go on.
func (l *loader) spend(at origin) bool {
	l.visits++
	if l.visits == maxNodes {
		l.report(at, "", flaw{"the aliases in this file expand to too many values", "write it without YAML anchors"})
	}
	return l.visits < maxNodes
}

// section takes over a mapping whose keys are known. An empty one is fine: its lines may be commented out.
func (l *loader) section(v value, known fields) {
	l.each(v, func(key string, at origin, child value) {
		take, ok := known[key]
		if !ok {
			l.report(at, child.path, unknownKey(key, slices.Sorted(maps.Keys(known))))
			return
		}
		take(l, child)
	})
}

// each calls do for every key of a mapping but the second of its name. at is the place of the key.
func (l *loader) each(v value, do func(key string, at origin, child value)) {
	n := v.resolved()
	if v.isNull() {
		return
	}
	if n.Kind != yaml.MappingNode {
		l.report(v.at, v.path, flaw{"is " + kindOf(n) + ", not a section", "write its keys below it, indented"})
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		at := v.at.on(key)
		if !l.spend(at) {
			return
		}
		if f := keyFlaw(key); f != nil {
			l.report(at, v.path, *f)
			continue
		}
		path := join(v.path, shown(key.Value))
		if line, twice := first[key.Value]; twice {
			l.report(at, path, flaw{fmt.Sprintf("is here a second time, first in line %d", line), "keep one of them"})
			continue
		}
		first[key.Value] = key.Line
		do(key.Value, at, value{path: path, at: v.at.on(val), node: val})
	}
}

// keyFlaw says why a node cannot be a key of ours, nil if it can.
func keyFlaw(key *yaml.Node) *flaw {
	switch {
	case key.Kind != yaml.ScalarNode:
		return &flaw{"a key is " + kindOf(key), "write a plain name before the colon"}
	case key.ShortTag() == "!!merge":
		return &flaw{"merge keys (<<) are not supported", "write the keys out"}
	default:
		return nil
	}
}

// items calls do for every item of a list. One value alone is no list: `endpoints: https://x` would read as it were.
func (l *loader) items(v value, do func(item value)) {
	n := v.resolved()
	if v.isNull() {
		return
	}
	if n.Kind != yaml.SequenceNode {
		l.report(v.at, v.path, flaw{"is " + kindOf(n) + ", not a list", "write it as [a, b], or one - item a line"})
		return
	}
	for i, c := range n.Content {
		if !l.spend(v.at) {
			return
		}
		do(value{path: fmt.Sprintf("%s[%d]", v.path, i), at: v.at.on(c), node: c})
	}
}

// scalar gives the text of a single value; ok is false if it is none, which has been reported then.
func (l *loader) scalar(v value) (text string, ok bool) {
	if v.node == nil {
		return strings.TrimSpace(v.text), true
	}
	n := v.resolved()
	switch {
	case v.isNull():
		l.report(v.at, v.path, flaw{"has no value", "write one, or leave the key out"})
		return "", false
	case n.Kind != yaml.ScalarNode:
		l.report(v.at, v.path, flaw{"is " + kindOf(n) + ", not a single value", "write one value"})
		return "", false
	default:
		return n.Value, true
	}
}

// set parses a single value into dst and notes where it came from; it reports whether the value was good.
func set[T any](l *loader, v value, dst *T, parse func(string) (T, error)) bool {
	text, ok := l.scalar(v)
	if !ok {
		return false
	}
	l.at[v.path] = v.at // also if it is bad, so that nobody asks for the missing key
	got, err := parse(text)
	if err != nil {
		l.reject(v, err)
		return false
	}
	*dst = got
	return true
}

// reject reports the error of a parser.
func (l *loader) reject(v value, err error) {
	f := flaw{wrong: err.Error()}
	errors.As(err, &f)
	l.report(v.at, v.path, f)
}

// shown is a key as it stands in a message; a plain one as it is.
func shown(key string) string {
	if len(key) > maxWord || strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return quoted(key)
	}
	return key
}

// join puts a key behind the path of its section.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// kindOf names a node's kind for a person.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	default:
		return "a single value"
	}
}
