package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"cistern/config"
	"cistern/upstream"
)

// maxSecret bounds a password's file, in bytes.
const maxSecret = 64 << 10

// credentialsOf gives the source of an upstream's account, nil for none. What
// it reads is read anew each time, so that secrets can be rotated.
func credentialsOf(u config.Upstream, getenv func(string) string) func(context.Context) (upstream.Credentials, error) {
	c := u.Credentials
	switch {
	case c.IsZero():
		return nil
	case c.Docker:
		return func(ctx context.Context) (upstream.Credentials, error) {
			return dockerCredentials(ctx, serverOf(u), getenv)
		}
	}
	return func(context.Context) (upstream.Credentials, error) {
		password, err := password(c, getenv)
		if err != nil {
			return upstream.Credentials{}, fmt.Errorf("account %s: %w", c.Username, err)
		}
		return upstream.Credentials{Username: c.Username, Password: password}, nil
	}
}

// accountOf names the account in messages.
func accountOf(c config.Credentials) string {
	if c.Docker {
		return "the account in docker's config.json"
	}
	return "account " + c.Username
}

// serverOf is the name under which others keep the account of an upstream: its
// own, or the first endpoint's host where that is a mere label.
func serverOf(u config.Upstream) string {
	if strings.ContainsAny(u.Name, ".:") || u.Name == "localhost" {
		return u.Name
	}
	if e, err := url.Parse(u.Endpoints[0]); err == nil {
		return e.Host
	}
	return u.Name
}

func password(c config.Credentials, getenv func(string) string) (upstream.Secret, error) {
	if c.PasswordEnv != "" {
		v := getenv(c.PasswordEnv)
		if v == "" {
			return "", fmt.Errorf("password_env: the variable %s is not set", c.PasswordEnv)
		}
		return upstream.Secret(v), nil
	}
	text, err := readSecret(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password_file %s: %w", c.PasswordFile, err)
	}
	return upstream.Secret(text), nil
}

// readSecret reads one line; its errors hold nothing of it, nor the file's name.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", bare(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", bare(err)
	}
	// Editors and `echo` end a file by a newline; no password does.
	text := strings.TrimRight(string(b), "\r\n")
	switch {
	case len(b) > maxSecret:
		return "", fmt.Errorf("larger than %d bytes", maxSecret)
	case text == "":
		return "", errors.New("the file is empty")
	case strings.ContainsAny(text, "\r\n\x00"):
		return "", errors.New("the file holds more than one line")
	}
	return text, nil
}

// bare takes the path off an error of package os, for messages that name it.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
