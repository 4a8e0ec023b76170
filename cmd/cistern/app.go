package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cistern/config"
)

// Exit codes (DESIGN section 7).
const (
	exitFailed = 1
	exitUsage  = 2 // the command line or the configuration is wrong
	exitFound  = 3 // it ran, and found something
)

// app is one run of the program.
type app struct {
	stdout, stderr io.Writer
	logTo          *os.File // the daemon's log
	getenv         func(string) string
}

// exitError ends the program with a code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usageError marks what a person got wrong on the command line.
func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// run runs the command line and gives the exit code.
func (a *app) run(args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.Execute()
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) { // cobra's own: an unknown verb, too many arguments
		exit = &exitError{exitUsage, err}
	}
	if text := exit.Error(); text != "" {
		fmt.Fprintln(a.stderr, "cistern: "+text)
	}
	return exit.code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "cistern",
		Short:         "A pull-through cache for container registries",
		Long:          "Cistern sits between container clients and the registries they pull from, fetches each byte once,\nand serves it from disk ever after. `cistern serve` starts it; the other verbs ask a running one.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noVerb,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(a.serveCommand(), a.configCommand(), a.versionCommand())
	root.AddCommand(a.clientCommands()...)
	return root
}

// failing gives a verb's error the exit code 1, unless it has one.
func failing(run func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		var exit *exitError
		if err == nil || errors.As(err, &exit) {
			return err
		}
		return &exitError{exitFailed, err}
	}
}

// settingFlags adds the flags of `cistern serve`, and gives what was set.
func settingFlags(cmd *cobra.Command) func() map[string][]string {
	settings := config.Settings()
	single, many := map[string]*string{}, map[string]*[]string{}
	for _, s := range settings {
		if s.Repeatable {
			many[s.Name] = cmd.Flags().StringArray(s.Name, nil, s.Usage)
		} else {
			single[s.Name] = cmd.Flags().String(s.Name, "", s.Usage)
		}
	}
	return func() map[string][]string {
		set := map[string][]string{}
		for _, s := range settings {
			switch {
			case !cmd.Flags().Changed(s.Name):
			case s.Repeatable:
				set[s.Name] = *many[s.Name]
			default:
				set[s.Name] = []string{*single[s.Name]}
			}
		}
		return set
	}
}

// sources is where the daemon's configuration comes from.
func (a *app) sources(flags map[string][]string) (config.Sources, error) {
	dir, err := os.Getwd()
	if err != nil {
		return config.Sources{}, fmt.Errorf("working directory: %w", err)
	}
	userCache, err := os.UserCacheDir()
	if err != nil {
		userCache = "" // config says what to set instead
	}
	return config.Sources{
		Flags: flags, Getenv: a.getenv, DefaultFile: config.DefaultFile, WorkDir: dir,
		Root: os.Geteuid() == 0, UserCacheDir: userCache, Available: available,
	}, nil
}

// loadConfig puts the configuration together. What is wrong with it ends the
// program with code 2, a problem a line.
func loadConfig(s config.Sources) (*config.Config, error) {
	conf, err := config.Load(s)
	var problems config.Problems
	if errors.As(err, &problems) && len(problems) > 1 {
		lines := strings.Split(problems.Error(), "\n")
		return nil, usageError("%d problems with the configuration:\n  %s", len(lines), strings.Join(lines, "\n  "))
	}
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return conf, nil
}
