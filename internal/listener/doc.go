// Package listener accepts connections for net/http within bounds: how many at
// once, how long each may stall, how its certificate is found, and how the
// whole is brought to an end.
//
// It knows nothing of registries, routes or logs of requests. Connections
// reach net/http as the *net.TCPConn they are, so that bodies leave by sendfile.
package listener
