package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"cistern/config"
)

func (a *app) configCommand() *cobra.Command {
	group := &cobra.Command{
		Use: "config", Short: "Check or show the configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	check := &cobra.Command{
		Use: "check", Short: "Say all that is wrong with the configuration; exit with 2 if anything is", Args: cobra.NoArgs,
	}
	show := &cobra.Command{
		Use: "show", Short: "Print the configuration that `serve` would run with, defaults included", Args: cobra.NoArgs,
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
			text, err := configText(c)
			fmt.Fprint(a.stdout, text)
			return err
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

// The configuration as its file has it. config.Load reads what this prints.
type (
	configView struct {
		Listen          string       `yaml:"listen"`
		TLS             *tlsView     `yaml:"tls,omitempty"`
		Admin           adminView    `yaml:"admin"`
		Log             logView      `yaml:"log"`
		Cache           cacheView    `yaml:"cache"`
		DefaultUpstream string       `yaml:"default_upstream,omitempty"`
		Upstreams       upstreamsMap `yaml:"upstreams"`
	}
	tlsView   struct{ Cert, Key string }
	adminView struct {
		Listen    string
		TokenFile string   `yaml:"token_file,omitempty"`
		Hosts     []string `yaml:",omitempty,flow"`
	}
	logView struct {
		Level  string
		Format string `yaml:",omitempty"`
	}
	cacheView struct {
		Dir       string
		MaxSize   string `yaml:"max_size"`
		MinFree   string `yaml:"min_free"`
		Abandoned string `yaml:"abandoned_fills"`
	}
	upstreamView struct {
		Endpoints      []string  `yaml:"endpoints,flow"`
		Username       string    `yaml:",omitempty"`
		PasswordFile   string    `yaml:"password_file,omitempty"`
		PasswordEnv    string    `yaml:"password_env,omitempty"`
		Credentials    string    `yaml:",omitempty"`
		Tags           []tagView `yaml:",omitempty"`
		StaleIfError   string    `yaml:"stale_if_error"`
		MaxStreams     int       `yaml:"max_streams"`
		MaxConnections int       `yaml:"max_connections"`
		Network        string    `yaml:"network"`
		TokenHosts     []string  `yaml:"token_hosts,omitempty,flow"`
		CAFile         string    `yaml:"ca_file,omitempty"`
	}
	tagView struct{ Match, Fresh string }
	// upstreamsMap keeps the order of the configuration.
	upstreamsMap []config.Upstream
)

// configText prints c as YAML. It holds no secret: c has none.
func configText(c *config.Config) (string, error) {
	v := configView{
		Listen: c.Listen, Admin: adminView{c.Admin.Listen, c.Admin.TokenFile, c.Admin.Hosts}, Log: logView{c.Log.Level, c.Log.Format},
		Cache:           cacheView{c.Cache.Dir, bytesText(c.Cache.MaxSize), minFreeText(c.Cache.MinFree), "continue"},
		DefaultUpstream: c.DefaultUpstream, Upstreams: c.Upstreams,
	}
	if c.TLS.Enabled() {
		v.TLS = &tlsView{c.TLS.Cert, c.TLS.Key}
	}
	if c.Cache.StopAbandoned {
		v.Cache.Abandoned = "stop"
	}
	var b strings.Builder
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(v); err != nil {
		return "", fmt.Errorf("print configuration: %w", err)
	}
	return b.String(), nil
}

// MarshalYAML makes a mapping in the order of the list.
func (l upstreamsMap) MarshalYAML() (any, error) {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for _, u := range l {
		v := upstreamView{
			Endpoints: u.Endpoints, Username: u.Credentials.Username, PasswordFile: u.Credentials.PasswordFile, PasswordEnv: u.Credentials.PasswordEnv,
			StaleIfError: u.StaleIfError.String(), MaxStreams: u.MaxStreams, MaxConnections: u.MaxConnections,
			Network: u.Network, TokenHosts: slices.Clone(u.TokenHosts), CAFile: u.CAFile,
		}
		if u.Credentials.Docker {
			v.Credentials = "docker"
		}
		for _, r := range u.Tags {
			v.Tags = append(v.Tags, tagView{r.Match.String(), r.Fresh.String()})
		}
		var key, value yaml.Node
		key.SetString(u.Name)
		if err := value.Encode(v); err != nil {
			return nil, err
		}
		m.Content = append(m.Content, &key, &value)
	}
	return m, nil
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
