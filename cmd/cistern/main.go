// Command cistern is the daemon and its verbs in one binary. It only wires:
// what is served is package proxy's matter, what is kept cache's, what the
// verbs ask package admin's.
package main

import (
	"os"
)

// version is set by the linker: -ldflags '-X main.version=v1.2.3'.
var version = "dev"

func main() {
	app := &app{stdout: os.Stdout, stderr: os.Stderr, logTo: os.Stderr, getenv: os.Getenv}
	os.Exit(app.run(os.Args[1:]))
}
