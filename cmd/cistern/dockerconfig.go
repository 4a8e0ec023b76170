package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/credentials"

	"cistern/upstream"
)

// Bounds of a credential helper (FAULTS 3a). It is run by us, not by oras-go,
// which passes its standard error and its output on: docs/decisions/ has more.
const (
	helperTimeout = 10 * time.Second
	helperOutput  = 64 << 10
)

// helperNotFound is what a helper prints when it has no account (P 4.61).
const helperNotFound = "credentials not found in native keychain"

// helperName is what may follow "docker-credential-": no path, no options.
var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// dockerCredentials looks an account up as the docker client does: in the
// helper named for the server, the helper for all, or the file itself. No
// account is no error: the zero Credentials.
func dockerCredentials(ctx context.Context, server string, getenv func(string) string) (upstream.Credentials, error) {
	path, err := dockerConfigPath(getenv)
	if err != nil {
		return upstream.Credentials{}, err
	}
	key := credentials.ServerAddressFromRegistry(server)
	helper, err := helperFor(path, key)
	if err != nil {
		return upstream.Credentials{}, err
	}
	if helper != "" {
		return askHelper(ctx, helper, key)
	}
	store, err := credentials.NewFileStore(path)
	if err != nil {
		return upstream.Credentials{}, fmt.Errorf("%s: not a docker config.json", path)
	}
	c, err := store.Get(ctx, key)
	if err != nil { // its text may hold the secret
		return upstream.Credentials{}, fmt.Errorf("%s: the entry of %s cannot be read", path, server)
	}
	return upstream.Credentials{Username: c.Username, Password: upstream.Secret(c.Password), IdentityToken: upstream.Secret(c.RefreshToken)}, nil
}

// dockerConfigPath is where the docker client keeps its accounts.
func dockerConfigPath(getenv func(string) string) (string, error) {
	if dir := getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json"), nil
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".docker", "config.json"), nil
	}
	return "", errors.New("credentials: docker: neither DOCKER_CONFIG nor HOME is set, so there is no config.json")
}

// helperFor names the helper for a server, "" for none.
func helperFor(path, key string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("credentials: docker: %w", err)
	}
	var file struct {
		CredsStore  string            `json:"credsStore"`
		CredHelpers map[string]string `json:"credHelpers"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		return "", fmt.Errorf("%s: not a docker config.json", path)
	}
	name := file.CredHelpers[key]
	if name == "" {
		name = file.CredsStore
	}
	if name != "" && !helperName.MatchString(name) {
		return "", fmt.Errorf("%s: %.40q is no name of a credential helper", path, name)
	}
	return name, nil
}

// askHelper runs docker-credential-NAME get. Nothing that it prints is passed on.
func askHelper(ctx context.Context, name, key string) (upstream.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	program := "docker-credential-" + name
	out := &bounded{most: helperOutput}
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin, cmd.Stdout = strings.NewReader(key), out
	cmd.WaitDelay = time.Second // for children of the helper that keep its pipe open
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return upstream.Credentials{}, fmt.Errorf("%s did not answer within %v", program, helperTimeout)
	case out.full:
		return upstream.Credentials{}, fmt.Errorf("%s printed more than %d bytes", program, helperOutput)
	case err != nil && strings.TrimSpace(out.buf.String()) == helperNotFound:
		return upstream.Credentials{}, nil
	case errors.Is(err, exec.ErrNotFound):
		return upstream.Credentials{}, fmt.Errorf("%s is not in PATH", program)
	case err != nil:
		return upstream.Credentials{}, fmt.Errorf("%s failed: %w", program, err)
	}
	var account struct{ Username, Secret string }
	if err := json.Unmarshal(out.buf.Bytes(), &account); err != nil {
		return upstream.Credentials{}, fmt.Errorf("%s printed no JSON account", program)
	}
	if account.Username == "<token>" { // then the secret is an identity token (P 4.61)
		return upstream.Credentials{IdentityToken: upstream.Secret(account.Secret)}, nil
	}
	return upstream.Credentials{Username: account.Username, Password: upstream.Secret(account.Secret)}, nil
}

// bounded is a buffer that refuses more than most bytes. It embeds nothing:
// io.Copy would find bytes.Buffer's ReadFrom, which knows no bound.
type bounded struct {
	buf  bytes.Buffer
	most int
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > b.most {
		b.full = true
		return 0, errors.New("too much output")
	}
	return b.buf.Write(p)
}
