package oci

import "strings"

// Repository is a repository of a configured upstream.
type Repository struct {
	Upstream string // as configured: "docker.io", "ghcr.io", "10.0.0.5:5000"
	Name     string // within the upstream: "library/nginx"
}

// String joins upstream and name: "docker.io/library/nginx".
func (r Repository) String() string { return r.Upstream + "/" + r.Name }

// Clone gives r with its own memory, as Digest.Clone does; an upstream's name is
// the configuration's.
func (r Repository) Clone() Repository {
	r.Name = strings.Clone(r.Name)
	return r
}

// Reference names a manifest: by tag or by digest, never by both.
type Reference struct {
	Repository
	Tag    string
	Digest Digest
}

// Clone gives r with its own memory, as Digest.Clone does.
func (r Reference) Clone() Reference {
	return Reference{r.Repository.Clone(), strings.Clone(r.Tag), r.Digest.Clone()}
}

// Ref is the tag or the digest as text, as it stands in a URL.
func (r Reference) Ref() string {
	if r.Digest.IsZero() {
		return r.Tag
	}
	return r.Digest.String()
}

// String is the reference as people write it: "docker.io/library/nginx:latest".
func (r Reference) String() string {
	if r.Digest.IsZero() {
		return r.Repository.String() + ":" + r.Tag
	}
	return r.Repository.String() + "@" + r.Digest.String()
}

// Descriptor says what a digest names.
type Descriptor struct {
	MediaType string
	Digest    Digest // zero where upstream did not say
	Size      int64  // bytes; -1 unknown
}

// maxName is the distribution-spec's advice for host and name together; a name
// alone may use all of it.
const maxName = 255

// ValidName tells whether s is a repository name of the distribution-spec:
// components of lower-case letters and digits with single '.', one or two '_'
// or any number of '-' between them, joined by '/'.
func ValidName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for c := range strings.SplitSeq(s, "/") {
		if !validComponent(c) {
			return false
		}
	}
	return true
}

// validComponent checks [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func validComponent(c string) bool {
	if c == "" || !alnum(c[0]) || !alnum(c[len(c)-1]) {
		return false
	}
	for i := 0; i < len(c); {
		if alnum(c[i]) {
			i++
			continue
		}
		j := i
		for !alnum(c[j]) { // ends: the last byte is a letter or digit
			j++
		}
		switch sep := c[i:j]; {
		case sep == ".", sep == "_", sep == "__", strings.Trim(sep, "-") == "":
		default:
			return false
		}
		i = j
	}
	return true
}

func alnum(b byte) bool { return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' }

// ValidTag tells whether s is a tag: [A-Za-z0-9_][A-Za-z0-9._-]{0,127}.
func ValidTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		b := s[i]
		if !alnum(b) && (b < 'A' || b > 'Z') && b != '_' && b != '.' && b != '-' {
			return false
		}
	}
	return true
}

// LooksLikeHost tells whether the first segment of a path or an image name is
// read as a registry's host: it holds a '.' or ':' or is "localhost".
func LooksLikeHost(segment string) bool {
	return segment == "localhost" || strings.ContainsAny(segment, ".:")
}

// validHost accepts what may stand as host[:port] in front of a name (no IPv6
// literals: brackets do not survive in paths). It is a guard for messages and
// lookups, not a DNS check.
func validHost(s string) bool {
	if s == "" || len(s) > maxName || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		b := s[i]
		if !alnum(b) && (b < 'A' || b > 'Z') && !strings.ContainsRune(".-_:", rune(b)) {
			return false
		}
	}
	return s[0] != '.' && s[0] != '-'
}
