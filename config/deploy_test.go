package config

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// deployed loads the commented sample of deploy/.
func deployed(t *testing.T) (Sources, *Config) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "deploy", "cistern.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s := bare()
	s.Flags = flags("config", path)
	return s, mustLoad(t, s)
}

// The sample says what the defaults are; it must not say anything else.
func TestDeployedSampleIsTheDefaults(t *testing.T) {
	t.Parallel()
	_, c := deployed(t)
	want := mustLoad(t, Sources{Root: true})
	if c.Listen != want.Listen || c.TLS != want.TLS || c.Admin.Listen != want.Admin.Listen || c.Log != want.Log || c.DefaultUpstream != want.DefaultUpstream {
		t.Errorf("%+v", c)
	}
	want.Cache.DirDefaulted, want.Cache.SizeDefaulted = false, false
	if c.Cache != want.Cache {
		t.Errorf("cache %+v, default %+v", c.Cache, want.Cache)
	}
	hub := find(t, c, "docker.io")
	if len(hub.Tags) != 2 || hub.Tags[1].Fresh != DefaultTagFresh || hub.Tags[0].Fresh != 24*time.Hour {
		t.Errorf("tags %+v", hub.Tags)
	}
	for _, u := range c.Upstreams {
		u.Tags = nil
		if def := find(t, want, u.Name); !slices.Equal(u.Endpoints, def.Endpoints) || u.StaleIfError != def.StaleIfError || u.MaxStreams != def.MaxStreams || u.MaxConnections != def.MaxConnections || u.Network != def.Network {
			t.Errorf("%s: %+v, default %+v", u.Name, u, def)
		}
	}
}

// Every key is in the sample, if only in a comment, and so is every built-in upstream.
func TestDeployedSampleIsComplete(t *testing.T) {
	t.Parallel()
	s, _ := deployed(t)
	data, err := readFile(s.Flags["config"][0])
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, known := range []fields{rootFields(), tlsFields(), adminFields(), logFields(), cacheFields(), upstreamFields(&Upstream{})} {
		for key := range known {
			if !strings.Contains(text, key) {
				t.Errorf("the key %s is missing", key)
			}
		}
	}
	for _, u := range wellKnown() {
		if !strings.Contains(text, u.Name) {
			t.Errorf("the built-in upstream %s is missing", u.Name)
		}
	}
}
