package config

import (
	"path/filepath"
	"strings"
	"unicode"
)

// Load puts a configuration together: defaults, then the file, then the environment, then the flags, the later one
// winning key by key. It reads one file and nothing else. Its error is always Problems, and holds everything that is
// wrong, not just the first.
func Load(s Sources) (*Config, error) {
	l := newLoader(s)
	l.file()
	l.settings()
	l.finish()
	if len(l.problems) > 0 {
		return nil, l.problems.sorted()
	}
	return &l.cfg, nil
}

// loader is a Config in the making.
type loader struct {
	src      Sources
	cfg      Config
	problems Problems
	// flawed are the keys with a problem, and the lists with one in them.
	flawed map[string]bool
	// at says where each key was last set, for problems between two keys.
	at map[string]origin
	// endpointsFrom says which flag or variable gave an upstream its endpoints: the first one of a source replaces what
	// an earlier source said, the next ones add to it.
	endpointsFrom map[string]string
	// visits counts the YAML nodes looked at; see maxNodes.
	visits int
}

// origin is where a value was written.
type origin struct {
	source string // file, flag or variable, as a person knows it
	line   int    // 0 outside the file
	base   string // what relative paths are relative to
}

// newLoader starts from the defaults.
func newLoader(s Sources) *loader {
	return &loader{
		src: s,
		cfg: Config{
			Listen:    DefaultListen,
			Admin:     Admin{Listen: DefaultAdminListen},
			Log:       Log{Level: DefaultLogLevel},
			Cache:     Cache{MinFree: MinFree{Bytes: DefaultMinFree}, FillsKept: DefaultFillsKept, ScrubRate: DefaultScrubRate},
			Upstreams: wellKnown(),
		},
		flawed:        map[string]bool{},
		at:            map[string]origin{},
		endpointsFrom: map[string]string{},
	}
}

// report adds a problem with the key at path (empty: none in particular).
func (l *loader) report(at origin, path string, f flaw) {
	list, _, _ := strings.Cut(path, "[")
	l.flawed[path], l.flawed[list] = true, true
	if at.line == 0 {
		path = "" // the flag or variable is named already
	}
	l.problems = append(l.problems, Problem{Source: at.source, Line: at.line, Key: path, Wrong: f.wrong, Fix: f.fix})
}

// has reports whether somebody chose the key at path.
func (l *loader) has(path string) bool {
	_, ok := l.at[path]
	return ok
}

// settings applies the environment, then the flags.
func (l *loader) settings() {
	for _, s := range Settings() {
		if s.apply == nil {
			continue
		}
		for _, text := range l.src.env(s) {
			s.apply(l, value{at: origin{source: s.Env(), base: l.src.WorkDir}, text: text})
		}
	}
	for _, s := range Settings() {
		if s.apply == nil {
			continue
		}
		for _, text := range l.src.Flags[s.Name] {
			s.apply(l, value{at: origin{source: "--" + s.Name, base: l.src.WorkDir}, text: text})
		}
	}
}

// getenv looks up one variable.
func (s Sources) getenv(name string) string {
	if s.Getenv == nil {
		return ""
	}
	return s.Getenv(name)
}

// env gives the values of a setting in the environment. A variable that is set to nothing is not set: that is what
// compose files and unit files leave behind.
func (s Sources) env(t Setting) []string {
	text := s.getenv(t.Env())
	if t.Repeatable {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	}
	if strings.TrimSpace(text) == "" {
		return nil
	}
	return []string{text}
}

// envName is the variable of a flag.
func envName(flag string) string {
	return "CISTERN_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// configFile says which file to read and who named it; explicit is false for the default one, which may be missing.
func (s Sources) configFile() (path string, from origin, explicit bool) {
	if named := s.Flags["config"]; len(named) > 0 {
		return named[len(named)-1], origin{source: "--config", base: s.WorkDir}, true
	}
	if named := s.getenv(envName("config")); named != "" {
		return named, origin{source: envName("config"), base: s.WorkDir}, true
	}
	return s.DefaultFile, origin{source: s.DefaultFile, base: s.WorkDir}, false
}

// absolute is path, or where path leads from base.
func absolute(base, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(base, path)
}
