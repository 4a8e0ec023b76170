package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds the configuration file, in bytes.
const maxFile = 1 << 20

// file reads and applies the configuration file, if there is one.
func (l *loader) file() {
	name, from, explicit := l.src.configFile()
	if name == "" {
		if explicit {
			l.report(from, "", flaw{"names no file", "leave it out, or give a path"})
		}
		return
	}
	path := absolute(l.src.WorkDir, name)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) && !explicit {
		return
	}
	l.cfg.File = path
	at := origin{source: name, base: filepath.Dir(path)}
	if err != nil {
		l.reject(value{at: at}, fileFlaw(err))
		return
	}
	l.document(at, data)
}

// document applies the text of the file at.
func (l *loader) document(at origin, data []byte) {
	root, prob := parseYAML(data)
	if prob != nil {
		prob.Source = at.source
		l.problems = append(l.problems, *prob)
		return
	}
	if root != nil {
		l.section(value{at: at.on(root), node: root}, rootFields())
	}
}

// on is the same source at the line of a node.
func (o origin) on(n *yaml.Node) origin {
	o.line = n.Line
	return o
}

// readFile reads a whole configuration file. A pipe is fine, so that one can be made on the fly; a folder is not.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, flaw{"is a directory", "name the YAML file in it"}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, flaw{"is larger than 1 MiB", "this is hardly a configuration; check the path"}
	}
	return data, nil
}

// fileFlaw says why a file cannot be read without repeating its name, which every problem starts with.
func fileFlaw(err error) error {
	if errors.As(err, new(flaw)) {
		return err
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return flaw{"cannot be read: " + err.Error(), "check the path and its permissions"}
}

// parseYAML gives the root node of the one document in data, nil if it is empty, or the problem with it.
func parseYAML(data []byte) (*yaml.Node, *Problem) {
	if at := notText(data); at >= 0 {
		return nil, &Problem{Line: lineOf(data, at), Wrong: fmt.Sprintf("byte 0x%02x is not UTF-8 text", data[at]), Fix: "save the file as UTF-8, without control characters"}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, syntaxProblem(data, err)
	}
	if err := dec.Decode(&next); err == nil {
		return nil, &Problem{Line: next.Line, Wrong: "a second YAML document starts here", Fix: "write all keys in one document, without ---"}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxProblem(data, err)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// yamlError is the form of the YAML library's syntax errors, which carry their line in the text alone.
var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// tabIndent finds the first line that is indented by a tab.
var tabIndent = regexp.MustCompile(`(?m)^[ ]*\t[ \t]*[^\s#]`)

// syntaxProblem says what the YAML library says, and names a tab, which it reports in words that help nobody.
func syntaxProblem(data []byte, err error) *Problem {
	if loc := tabIndent.FindIndex(data); loc != nil {
		return &Problem{Line: lineOf(data, loc[0]), Wrong: "a tab in the indentation", Fix: "YAML is indented by spaces only"}
	}
	p := &Problem{Line: 1, Wrong: err.Error(), Fix: "correct the YAML there, or next to it"}
	if m := yamlError.FindStringSubmatch(err.Error()); m != nil {
		p.Wrong = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			p.Line = n
		}
	}
	return p
}

// notText is the offset of the first byte that is not UTF-8 or a control character, or -1.
func notText(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 || unicode.IsControl(r) && !strings.ContainsRune("\t\n\r\u0085", r) {
			return i
		}
		i += n
	}
	return -1
}

// lineOf is the line that holds the byte at offset, from 1.
func lineOf(data []byte, offset int) int {
	return 1 + bytes.Count(data[:offset], []byte("\n"))
}
