// Package lab runs real programs against each other on one machine and takes them away again: the
// distribution registry, Cistern, container engines. Everything happens in network, mount and process
// namespaces of the test binary's own (see Main), so that nothing can leave the machine and nothing
// can outlive the test, whatever becomes of it.
//
// It is not for assertions about the protocol: those stand in the tests and in package script.
package lab
