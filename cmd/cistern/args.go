package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// What a verb says of arguments that it cannot take.

// noVerb is for the program itself: what it is given is no verb.
func noVerb(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "`cistern --help` lists them"
	if like := root.SuggestionsFor(args[0]); len(like) > 0 {
		hint = "is it " + strings.Join(like, ", or ") + "?"
	}
	return usageError("unknown command %q: %s", args[0], hint)
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError("%s takes no arguments: what is %q?", cmd.CommandPath(), args[0])
}

func oneArg(cmd *cobra.Command, args []string) error {
	if err := someArgs(cmd, args); err != nil || len(args) == 1 {
		return err
	}
	return usageError("%d arguments, and one is wanted: %s", len(args), usageOf(cmd))
}

func someArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || args[0] == "" {
		return usageError("say of what: %s", usageOf(cmd))
	}
	return nil
}

// usageOf is a verb with its arguments.
func usageOf(cmd *cobra.Command) string {
	return fmt.Sprintf("%s %s", cmd.Parent().CommandPath(), cmd.Use)
}

// isDigest tells whether a name is meant to be a digest.
func isDigest(name string) bool {
	return strings.HasPrefix(name, "sha256:") || strings.HasPrefix(name, "sha512:")
}
