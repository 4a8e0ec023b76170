package admin

import (
	"errors"
	"net/http"

	"cistern/internal/oci"
)

// notFound is the daemon's word that something is not there: an oci.ErrNotFound, which tells
// what can be left out of an export from what ends it.
type notFound string

// Error is what the daemon said.
func (e notFound) Error() string { return string(e) }

// Is makes it an oci.ErrNotFound.
func (notFound) Is(target error) bool { return target == oci.ErrNotFound }

// said is an error of what the daemon said with a status.
func said(status int, text string) error {
	if status == http.StatusNotFound {
		return notFound(text)
	}
	return errors.New(text)
}
