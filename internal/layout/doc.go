// Package layout reads and writes images as an OCI image layout: a directory, a tar of
// one, or a tar in parts that fit on a medium. What it writes is closed: all that its
// index.json leads to is in it, verified, or in an earlier archive that it says it builds on.
//
// It is for carrying images to where no network leads, and knows no daemon and no
// registry. It unpacks nothing: what it reads is taken by name and digest, and bounded,
// whoever made it.
package layout
