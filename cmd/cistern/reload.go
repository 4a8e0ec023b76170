package main

import (
	"reflect"
	"strings"

	"go.uber.org/zap"

	"cistern/config"
)

// reload reads the configuration again. The log level is taken over; whatever
// else has changed is named, and needs a restart. A configuration with mistakes
// changes nothing. Certificates, passwords and the admin token are read when
// their files change, without any signal.
func (d *daemon) reload(load func() (*config.Config, error)) {
	next, err := load()
	if err != nil {
		d.log.Error("reload: nothing changes", zap.Error(err))
		return
	}
	if next.Log.Level != d.conf.Log.Level {
		if err := d.log.level.UnmarshalText([]byte(next.Log.Level)); err != nil {
			d.log.Error("reload: log.level stays", zap.Error(err))
			return
		}
		d.log.Warn("reload: log.level changed", zap.String("from", d.conf.Log.Level), zap.String("to", next.Log.Level))
		d.conf.Log.Level = next.Log.Level
	}
	if keys := changed(d.conf, next); len(keys) > 0 {
		d.log.Warn("reload: these need a restart: " + strings.Join(keys, ", "))
		return
	}
	d.log.Info("reload: done")
}

// changed names the sections in which two configurations differ, but for the
// log level. Sizes that nobody chose follow the disk, and say nothing.
func changed(a, b *config.Config) (keys []string) {
	x, y := *a, *b
	y.Log.Level = x.Log.Level
	if x.Cache.SizeDefaulted && y.Cache.SizeDefaulted {
		y.Cache.MaxSize = x.Cache.MaxSize
	}
	for _, s := range []struct {
		key  string
		x, y any
	}{
		{"listen", x.Listen, y.Listen}, {"tls", x.TLS, y.TLS}, {"admin", x.Admin, y.Admin}, {"log.format", x.Log, y.Log},
		{"cache", x.Cache, y.Cache}, {"rate", x.Rate, y.Rate}, {"default_upstream", x.DefaultUpstream, y.DefaultUpstream}, {"upstreams", x.Upstreams, y.Upstreams},
	} {
		if !reflect.DeepEqual(s.x, s.y) {
			keys = append(keys, s.key)
		}
	}
	return keys
}
