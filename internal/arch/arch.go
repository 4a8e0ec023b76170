// Package arch holds the rules of this tree as tests: which package may import which, what its code may use, and the
// grain of files and functions. It has no code of its own and nothing imports it; a rule that turns out to be wrong is
// changed here, beside its reason.
package arch
