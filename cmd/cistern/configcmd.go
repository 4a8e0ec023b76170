package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"cistern/config"
)

func (a *app) configCommand() *cobra.Command {
	group := &cobra.Command{
		Use: "config", Short: "Check or show the configuration", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	check := &cobra.Command{
		Use: "check", Short: "Say all that is wrong with the configuration; exit with 2 if anything is", Args: noArgs,
	}
	show := &cobra.Command{
		Use: "show", Short: "Print the configuration that `serve` would run with, defaults included", Args: noArgs,
	}
	for cmd, run := range map[*cobra.Command]func(*config.Config) error{
		check: func(c *config.Config) error {
			from := c.File
			if from == "" {
				from = "defaults, environment and flags"
			}
			fmt.Fprintf(a.stdout, "%s: ok\n", from)
			return nil
		},
		show: func(c *config.Config) error {
			fmt.Fprint(a.stdout, configText(c))
			return nil
		},
	} {
		flags := settingFlags(cmd)
		cmd.RunE = failing(func(*cobra.Command, []string) error {
			s, err := a.sources(flags())
			if err != nil {
				return err
			}
			conf, err := loadConfig(s)
			if err != nil {
				return err
			}
			return run(conf)
		})
		group.AddCommand(cmd)
	}
	return group
}

// configText prints c as YAML that config.Load reads. It holds no secret: c
// has none.
func configText(c *config.Config) string {
	var y yamlWriter
	y.key("", "listen", c.Listen)
	if c.TLS.Enabled() {
		y.section("tls")
		y.key("  ", "cert", c.TLS.Cert)
		y.key("  ", "key", c.TLS.Key)
	}
	y.section("admin")
	y.key("  ", "listen", c.Admin.Listen)
	y.key("  ", "token_file", c.Admin.TokenFile)
	y.list("  ", "hosts", c.Admin.Hosts)
	y.section("log")
	y.key("  ", "level", c.Log.Level)
	y.key("  ", "format", c.Log.Format)
	y.section("cache")
	y.key("  ", "dir", c.Cache.Dir)
	y.key("  ", "max_size", bytesText(c.Cache.MaxSize))
	y.key("  ", "min_free", minFreeText(c.Cache.MinFree))
	abandoned := "continue"
	if c.Cache.StopAbandoned {
		abandoned = "stop"
	}
	y.key("  ", "abandoned_fills", abandoned)
	y.key("  ", "fills_kept", c.Cache.FillsKept.String())
	y.key("  ", "scrub_rate", bytesText(c.Cache.ScrubRate))
	y.key("", "rate", rateText(c.Rate))
	y.key("", "default_upstream", c.DefaultUpstream)
	y.section("upstreams")
	for _, u := range c.Upstreams {
		y.upstream(u)
	}
	return y.String()
}

// yamlWriter writes the little YAML that a configuration needs. Values are
// written as JSON, which YAML contains; empty ones are left out.
type yamlWriter struct{ strings.Builder }

func (y *yamlWriter) section(name string) { y.WriteString(name + ":\n") }

func (y *yamlWriter) key(indent, name, value string) {
	if value != "" {
		y.WriteString(indent + name + ": " + quote(value) + "\n")
	}
}

func (y *yamlWriter) list(indent, name string, values []string) {
	if len(values) == 0 {
		return
	}
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = quote(v)
	}
	y.WriteString(indent + name + ": [" + strings.Join(quoted, ", ") + "]\n")
}

func (y *yamlWriter) upstream(u config.Upstream) {
	const in = "    "
	y.WriteString("  " + quote(u.Name) + ":\n")
	y.list(in, "endpoints", u.Endpoints)
	y.key(in, "username", u.Credentials.Username)
	y.key(in, "password_file", u.Credentials.PasswordFile)
	y.key(in, "password_env", u.Credentials.PasswordEnv)
	if u.Credentials.Docker {
		y.key(in, "credentials", "docker")
	}
	if len(u.Tags) > 0 {
		y.WriteString(in + "tags:\n")
	}
	for _, r := range u.Tags {
		y.WriteString(in + "  - { match: " + quote(r.Match.String()) + ", fresh: " + r.Fresh.String() + " }\n")
	}
	y.key(in, "stale_if_error", u.StaleIfError.String())
	fmt.Fprintf(y, "%smax_streams: %d\n%smax_connections: %d\n", in, u.MaxStreams, in, u.MaxConnections)
	y.key(in, "rate", rateText(u.Rate))
	y.key(in, "range_miss", u.RangeMiss)
	y.key(in, "network", u.Network)
	y.list(in, "token_hosts", u.TokenHosts)
	y.key(in, "ca_file", u.CAFile)
}

// plainValue needs no quotes: nothing in it means anything to YAML.
var plainValue = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$|^[0-9]+[A-Za-z%][A-Za-z0-9]*$`)

func quote(s string) string {
	if plainValue.MatchString(s) && !slices.Contains([]string{"true", "false", "yes", "no", "on", "off", "null", "y", "n"}, strings.ToLower(s)) {
		return s
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always can be
	return strings.TrimSuffix(b.String(), "\n")
}

// rateText is a bound in bytes per second; empty for none.
func rateText(n int64) string {
	if n == 0 {
		return ""
	}
	return bytesText(n)
}

// bytesText is a size in the largest unit that says it exactly.
func bytesText(n int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{humanize.TiByte, "TiB"}, {humanize.GiByte, "GiB"}, {humanize.MiByte, "MiB"}, {humanize.KiByte, "KiB"}} {
		if n > 0 && n%u.size == 0 {
			return fmt.Sprintf("%d%s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%dB", n)
}

func minFreeText(m config.MinFree) string {
	if m.Percent > 0 {
		return fmt.Sprintf("%g%%", m.Percent)
	}
	return bytesText(m.Bytes)
}
