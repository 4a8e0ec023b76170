package proxy

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"cistern/internal/oci"
)

// What is asked upstream says which caches of this kind it has come through. One that
// comes back to where it began would wait for itself (P 2.33).

var (
	hop     = regexp.MustCompile(`\bcistern-[0-9a-f]{16}\b`)
	errLoop = &oci.Error{Code: oci.CodeUnsupported, HTTPStatus: http.StatusLoopDetected,
		Message: "an upstream of this cache leads back to it: look at the endpoints"}
)

const maxHops = 8

// newHop names this process.
func newHop() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	return fmt.Sprintf("cistern-%x", id)
}

// through gives the Via header of what is asked upstream for a request: of what the
// request itself says only names of caches like this go on.
func (rt *routes) through(r *http.Request) (via string, err error) {
	lines := r.Header["Via"]
	if lines == nil {
		return rt.via, nil
	}
	hops := hop.FindAllString(strings.Join(lines, ","), maxHops+1)
	if len(hops) > maxHops || slices.Contains(hops, rt.hop) {
		return "", errLoop
	}
	for _, h := range hops {
		via += "1.1 " + h + ", "
	}
	return via + rt.via, nil
}
