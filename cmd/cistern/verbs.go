package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cistern/config"
	"cistern/internal/admin"
)

// askTime bounds a verb; a refresh waits for upstream for up to a minute.
const askTime = 75 * time.Second

// verb describes a verb that asks a running daemon.
type verb struct {
	use, short string // further lines of short are in the verb's own help alone
	args       cobra.PositionalArgs
	run        func(ctx context.Context, a *app, c *admin.Client, args []string, output string) error
}

// clientCommands are the verbs that talk to the admin API.
func (a *app) clientCommands() []*cobra.Command {
	verbs := []verb{
		{"clients", "Show who pulls through it", noArgs, clients},
		{"fills", "Show what is on its way from upstream", noArgs, fills},
		{"upstreams", "Show the registries behind it", noArgs, upstreams},
		{"show NAME", "Show what an image consists of, and what of it is here", oneArg, show},
		{"why NAME|DIGEST", "Say why an image, or a blob, is not here", oneArg, why},
		{"rm NAME|DIGEST", `Drop an image, a repository, an upstream (NAME/) or a digest from the cache

It drops what only that uses: of a tag (nginx:1.27), of a repository (nginx), also what was pulled by its digest, of all that is of
an upstream (docker.io/, with the slash), or of a digest (sha256:..., that itself in any case, and
nginx@sha256:...). What is pinned stays.`, oneArg, remove},
		{"pin NAME", `Keep an image, whatever is evicted

Its manifests and blobs are kept, of the platforms that are pulled, now or later. NAME is nginx:1.27,
nginx, which is nginx:latest, or nginx@sha256:...; a tag's pin follows the tag. More than the cache can
hold cannot be pinned: that is an error.`, oneArg, pin},
		{"unpin NAME", "Give a pinned image free", oneArg, unpin},
		{"refresh NAME:TAG", "Ask upstream about a tag now", oneArg, refresh},
	}
	var out []*cobra.Command
	for _, v := range verbs {
		short, _, _ := strings.Cut(v.short, "\n")
		cmd := &cobra.Command{Use: v.use, Short: short, Long: v.short, Args: v.args}
		output, connect := outputFlag(cmd), a.adminFlags(cmd)
		if strings.Contains(v.use, "NAME") {
			cmd.ValidArgsFunction = a.completeImages(func() (*admin.Client, error) { c, _, err := connect(); return c, err }, v.use == "unpin NAME")
		}
		cmd.RunE = failing(func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(*output); err != nil {
				return err
			}
			c, _, err := connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), askTime)
			defer cancel()
			return v.run(ctx, a, c, args, *output)
		})
		out = append(out, cmd)
	}
	return append(out, a.statusCommand(), a.listCommand(), a.evictCommand(), a.verifyCommand(), a.exportCommand(), a.importCommand(), a.healthcheckCommand())
}

// adminFlags adds the flags that say where the daemon is, and gives a client.
// Without them the daemon's own configuration tells, as far as it can be read
// here; it is nil if it was not needed or cannot be.
func (a *app) adminFlags(cmd *cobra.Command) func() (*admin.Client, *config.Config, error) {
	address := cmd.Flags().String("admin", "", "`ADDRESS` of the daemon's admin listener: host:port or unix:/path (default $CISTERN_ADMIN, or what the configuration says)")
	token := cmd.Flags().String("admin-token-file", "", "`FILE` with the token that an admin listener beyond loopback wants (default $CISTERN_ADMIN_TOKEN_FILE)")
	return func() (*admin.Client, *config.Config, error) {
		if *token == "" {
			*token = a.getenv("CISTERN_ADMIN_TOKEN_FILE")
		}
		if *address == "" {
			*address = a.getenv("CISTERN_ADMIN")
		}
		var conf *config.Config
		if *address == "" {
			if conf = a.quietConfig(); conf != nil {
				*address = conf.Admin.Listen
				if *token == "" {
					*token = conf.Admin.TokenFile
				}
			}
		}
		if *address == config.AdminOff {
			return nil, conf, fmt.Errorf("the admin listener is off (admin.listen)")
		}
		c, err := admin.NewClient(*address, *token)
		if err != nil {
			return nil, conf, &exitError{exitUsage, err}
		}
		return c, conf, nil
	}
}

// quietConfig is the configuration that a daemon started here would have, nil
// if it has mistakes: those are for `serve` and `config check` to report.
func (a *app) quietConfig() *config.Config {
	s, err := a.sources(nil)
	if err != nil {
		return nil
	}
	s.Available = nil
	conf, err := config.Load(s)
	if err != nil {
		return nil
	}
	return conf
}

// healthcheckCommand is for containers, which have no curl. It asks whether the
// process lives; whether it should get requests is what /readyz says.
func (a *app) healthcheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "healthcheck", Short: "Exit with 0 if the daemon lives, with 1 if not", Args: noArgs,
		Long: "Exit with 0 if the daemon lives, with 1 if not.\nIt asks /healthz of the admin listener, or the registry listener where that is off.",
	}
	connect := a.adminFlags(cmd)
	cmd.RunE = failing(func(*cobra.Command, []string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		c, conf, err := connect()
		if conf != nil && conf.Admin.Listen == config.AdminOff {
			return pingRegistry(ctx, conf)
		}
		if err != nil {
			return err
		}
		return c.Healthy(ctx)
	})
	return cmd
}

// pingRegistry asks the registry listener on this machine.
func pingRegistry(ctx context.Context, conf *config.Config) error {
	host, port, err := net.SplitHostPort(conf.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme(conf)+net.JoinHostPort(host, port)+"/v2/", nil)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	// Whether its certificate is good is not the question, and its name is not ours.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("is cistern running? %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", req.URL, resp.Status)
	}
	return nil
}
