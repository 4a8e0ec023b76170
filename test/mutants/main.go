// Command mutants takes protections out of the program, one at a time, and expects the tests to notice each (FAULTS goal
// G14): a fault test that stays green without the protection that it is about proves nothing.
//
// It changes nothing in the tree: the compiler is shown another text in place of one file. What it prints is a table for
// docs/faults.md; it fails if a mutant is not noticed, does not compile, or names text that is no longer there.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"
)

func main() {
	root := flag.String("root", "..", "the root of the tree")
	only := flag.String("only", "", "a regular expression: just those whose file or name matches")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	began := time.Now()
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
	red, all := 0, 0
	l := newLab(*root, dir)
	for _, m := range protections() {
		if !pattern.MatchString(m.file + " " + m.name) {
			continue
		}
		all++
		verdict, noticed := l.try(m)
		if noticed {
			red++
		}
		fmt.Printf("| %s | %s | %s |\n", m.name, m.file, verdict)
	}
	fmt.Printf("%d of %d noticed, %.0f s\n", red, all, time.Since(began).Seconds())
	_ = os.RemoveAll(dir)
	if red < all || all == 0 {
		os.Exit(1)
	}
}
