package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cistern/config"
	"cistern/upstream"
)

// canary is a secret that no error may repeat.
const canary = "c4nary-s3cret"

func env(pairs map[string]string) func(string) string {
	return func(name string) string { return pairs[name] }
}

func writeFile(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPasswordFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "password")
	u := config.Upstream{Name: "docker.io", Credentials: config.Credentials{Username: "ci", PasswordFile: path}}
	get := credentialsOf(u, env(nil))
	for _, tc := range []struct{ text, want, fault string }{
		{text: canary, want: canary},
		{text: canary + "2\r\n", want: canary + "2"}, // rotated, by an editor
		{text: " spaces are part of it \n", want: " spaces are part of it "},
		{text: "\n", fault: "is empty"},
		{text: canary + "\nsecond", fault: "more than one line"},
		{text: strings.Repeat("x", maxSecret+1), fault: "larger than"},
	} {
		writeFile(t, path, tc.text, 0o600)
		got, err := get(context.Background())
		switch {
		case tc.fault == "" && (err != nil || got.Password.Reveal() != tc.want || got.Username != "ci"):
			t.Errorf("%.20q: %v, %v", tc.text, got, err)
		case tc.fault != "" && (err == nil || !strings.Contains(err.Error(), tc.fault) || strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), path)):
			t.Errorf("%.20q: error %v, want %q", tc.text, err, tc.fault)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := get(context.Background()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("missing: %v", err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := get(context.Background()); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: %v", err)
	}
}

func TestPasswordEnv(t *testing.T) {
	t.Parallel()
	u := config.Upstream{Name: "docker.io", Credentials: config.Credentials{Username: "ci", PasswordEnv: "HUB"}}
	got, err := credentialsOf(u, env(map[string]string{"HUB": canary}))(context.Background())
	if err != nil || got.Password.Reveal() != canary {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := credentialsOf(u, env(nil))(context.Background()); err == nil || !strings.Contains(err.Error(), "HUB is not set") {
		t.Errorf("unset: %v", err)
	}
	if credentialsOf(config.Upstream{Name: "docker.io"}, env(nil)) != nil {
		t.Error("an anonymous upstream has a source of credentials")
	}
}

func TestDockerConfigFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	getenv := env(map[string]string{"DOCKER_CONFIG": dir})
	path := filepath.Join(dir, "config.json")
	get := func(u config.Upstream) (upstream.Credentials, error) {
		u.Credentials.Docker = true
		return credentialsOf(u, getenv)(context.Background())
	}
	if _, err := get(config.Upstream{Name: "ghcr.io"}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("missing file: %v", err)
	}
	// "dTpw" is u:p, "bm8tY29sb24=" no-colon.
	writeFile(t, path, `{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "10.0.0.5:5000": {"identitytoken": "`+canary+`"}, "bad.io": {"auth": "bm8tY29sb24="}}}`, 0o600)
	if got, err := get(config.Upstream{Name: "docker.io"}); err != nil || got.Username != "u" || got.Password.Reveal() != "p" {
		t.Errorf("docker.io: %v, %v", got, err)
	}
	label := config.Upstream{Name: "lab", Endpoints: []string{"http://10.0.0.5:5000"}}
	if got, err := get(label); err != nil || got.IdentityToken.Reveal() != canary {
		t.Errorf("label: %v, %v", got, err)
	}
	if got, err := get(config.Upstream{Name: "ghcr.io"}); err != nil || got != (upstream.Credentials{}) {
		t.Errorf("no entry: %v, %v", got, err)
	}
	if _, err := get(config.Upstream{Name: "bad.io"}); err == nil || strings.Contains(err.Error(), "no-colon") {
		t.Errorf("bad entry: %v", err)
	}
	writeFile(t, path, `{`, 0o600)
	if _, err := get(config.Upstream{Name: "ghcr.io"}); err == nil {
		t.Error("no error for a broken file")
	}
}

func TestCredentialHelpers(t *testing.T) { // not parallel: PATH is the process's
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, script := range map[string]string{
		"good":   `read key; [ "$key" = ghcr.io ] && echo '{"ServerURL":"ghcr.io","Username":"u","Secret":"p"}'`,
		"token":  `echo '{"Username":"<token>","Secret":"idt"}'`,
		"none":   `echo 'credentials not found in native keychain'; exit 1`,
		"broken": `echo '` + canary + `' >&2; echo '` + canary + `'; exit 1`,
		"text":   `echo '` + canary + `'`,
		"flood":  `exec yes ` + canary,
	} {
		writeFile(t, filepath.Join(dir, "docker-credential-"+name), "#!/bin/sh\n"+script+"\n", 0o700)
	}
	for _, tc := range []struct {
		helper string
		want   upstream.Credentials
		fault  string
	}{
		{helper: "good", want: upstream.Credentials{Username: "u", Password: "p"}},
		{helper: "token", want: upstream.Credentials{IdentityToken: "idt"}},
		{helper: "none"},
		{helper: "broken", fault: "docker-credential-broken failed: exit status 1"},
		{helper: "text", fault: "no JSON account"},
		{helper: "flood", fault: "more than"},
		{helper: "absent", fault: "not in PATH"},
		{helper: "../evil", fault: "no name of a credential helper"},
		{helper: "-x", fault: "no name of a credential helper"},
	} {
		conf := t.TempDir()
		writeFile(t, filepath.Join(conf, "config.json"), fmt.Sprintf(`{"credsStore": "absent", "credHelpers": {"ghcr.io": %q}}`, tc.helper), 0o600)
		got, err := dockerCredentials(context.Background(), "ghcr.io", env(map[string]string{"DOCKER_CONFIG": conf}))
		switch {
		case tc.fault == "" && (err != nil || got != tc.want):
			t.Errorf("%s: %v, %v", tc.helper, got, err)
		case tc.fault != "" && (err == nil || !strings.Contains(err.Error(), tc.fault) || strings.Contains(err.Error(), canary)):
			t.Errorf("%s: error %v, want %q", tc.helper, err, tc.fault)
		}
	}
}

func TestHungHelperIsLeft(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	// The shell's child keeps the pipe when the shell is killed.
	writeFile(t, filepath.Join(dir, "docker-credential-hung"), "#!/bin/sh\nsleep 3 | cat\n", 0o700)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := askHelper(ctx, "hung", "ghcr.io"); err == nil || !strings.Contains(err.Error(), "did not answer") {
		t.Errorf("error %v", err)
	}
}

func FuzzDockerConfig(f *testing.F) {
	f.Add(`{"auths": {"ghcr.io": {"auth": "dTpw"}}}`)
	f.Add(`{"auths": {"https://ghcr.io/v1/": {"identitytoken": "x", "username": "u", "password": "p"}}}`)
	f.Add(`{"credHelpers": {"ghcr.io": "../../bin/sh"}, "credsStore": "-x"}`)
	f.Add(`{"auths": {"ghcr.io": {"auth": "bm8tY29sb24="}}, "credsStore": null}`)
	f.Add(`[]`)
	path := filepath.Join(f.TempDir(), "config.json")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		name, err := helperFor(path, "ghcr.io")
		if err == nil && name != "" {
			if strings.ContainsAny(name, "/ \\") || strings.HasPrefix(name, "-") {
				t.Errorf("helper %q", name)
			}
			return // it would be run
		}
		if _, err := dockerCredentials(context.Background(), "ghcr.io", env(map[string]string{"DOCKER_CONFIG": filepath.Dir(path)})); err != nil && len(err.Error()) > 500 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}
