package config

import (
	"cmp"
	"strings"
)

// unknownKey says that a key is not known among those of its section, and which one may have been meant.
func unknownKey(key string, known []string) flaw {
	wrong := "unknown key"
	if fix := cmp.Or(foreignKey(key), misplacedKey(key)); fix != "" {
		return flaw{wrong, fix}
	}
	if k := nearest(key, known); k != "" {
		return flaw{wrong, "did you mean " + k + "?"}
	}
	return flaw{wrong, "known here are " + strings.Join(known, ", ")}
}

// foreignKey has the fix for keys that people bring from other programs.
func foreignKey(key string) string {
	switch key {
	case "password", "secret", "token":
		return "secrets stay out of this file: use password_file or password_env (upstreams), token_file (admin)"
	case "insecure", "plain_http", "skip_verify":
		return "write the endpoint as http://... for plain HTTP, or name the registry's CA in ca_file"
	case "url", "remoteurl", "mirrors":
		return `write endpoints: ["https://..."]`
	case "port", "addr", "address":
		return `write listen: ":5000"`
	default:
		return ""
	}
}

// nearest is the known key that a misspelt one is closest to, empty if none is close.
func nearest(key string, known []string) string {
	plain := strings.ToLower(strings.ReplaceAll(key, "-", "_"))
	best, bestDistance := "", 1+max(1, len(plain)/3)
	for _, k := range known {
		if d := distance(plain, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// maxWord bounds the words that distance compares: no key of ours is longer, and the work is quadratic.
const maxWord = 64

// distance is the number of letters to put in, take out, change or swap with the next one to make b of a.
func distance(a, b string) int {
	if len(a) > maxWord || len(b) > maxWord {
		return maxWord
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
