package upstream

import (
	"reflect"
	"testing"
)

func TestChallenges(t *testing.T) {
	t.Parallel()
	type params = map[string]string
	bearer := func(p params) challenge { return challenge{"bearer", p} }
	for _, tc := range []struct {
		name  string
		lines []string
		want  []challenge
	}{
		{"hub", []string{`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull"`},
			[]challenge{bearer(params{"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": "repository:a/b:pull"})}},
		{"case and spaces", []string{`bEARER  Realm = "x" , SERVICE="y"`}, []challenge{bearer(params{"realm": "x", "service": "y"})}},
		{"quoted comma and quote", []string{`Bearer realm="x",scope="a,b \"c\" d=e",service="s"`},
			[]challenge{bearer(params{"realm": "x", "scope": `a,b "c" d=e`, "service": "s"})}},
		{"two in a line", []string{`Basic realm="r", Bearer realm="x",service="s"`},
			[]challenge{{"basic", params{"realm": "r"}}, bearer(params{"realm": "x", "service": "s"})}},
		{"two lines", []string{`Negotiate`, `Basic realm="r"`}, []challenge{{"negotiate", params{}}, {"basic", params{"realm": "r"}}}},
		{"token68", []string{`Negotiate a87421000492aa874209af8bc028==, Basic realm="r"`},
			[]challenge{{"negotiate", params{"a87421000492aa874209af8bc028": ""}}, {"basic", params{"realm": "r"}}}},
		{"no comma in front of the next", []string{`Basic, Bearer realm=https://x/token`},
			[]challenge{{"basic", params{}}, bearer(params{"realm": "https://x/token"})}},
		{"empty service", []string{`Bearer realm="x",service=""`}, []challenge{bearer(params{"realm": "x", "service": ""})}},
		{"first value counts", []string{`Bearer realm="x",realm="y"`}, []challenge{bearer(params{"realm": "x"})}},
		{"not closed", []string{`Bearer realm="x`}, []challenge{bearer(params{"realm": "x"})}},
		{"nonsense", []string{`,,=,"a,b",`, ``}, nil},
	} {
		if got := parseChallenges(tc.lines); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ line, want string }{
		{`Basic realm="r", Bearer realm="x"`, "bearer"},
		{`Bearer service="no realm", Basic realm="r"`, "basic"},
		{`Digest realm="x", nonce="1"`, ""},
		{``, ""},
	} {
		if c, _ := choose(parseChallenges([]string{tc.line})); c.scheme != tc.want {
			t.Errorf("%s: chose %q, want %q", tc.line, c.scheme, tc.want)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"`)
	f.Add(`Negotiate abc==, Basic realm="r\"" , Bearer a = b`)
	f.Add("\"\\")
	f.Fuzz(func(t *testing.T, line string) {
		for _, c := range parseChallenges([]string{line, line}) {
			if c.scheme == "" || c.params == nil {
				t.Fatalf("%q gives an empty challenge", line)
			}
		}
	})
}
