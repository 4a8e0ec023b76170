package peer

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"cistern/bench/proc"
)

// nginxConfig is tuned as an operator would for registry traffic. tcp_nopush is
// off: measured, it costs about 40 ms for each small cold blob, and half the
// throughput of large hits on loopback.
const nginxConfig = `daemon off;
{{if .Root}}user root;
{{end}}worker_processes auto;
pid {{.Dir}}/pid;
error_log {{.Dir}}/error.log;
events { worker_connections 4096; }
http {
  access_log {{if .Log}}{{.Dir}}/access.log{{else}}off{{end}};
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush off;
  keepalive_requests 1000000000;
  client_body_temp_path {{.Dir}}/t1; proxy_temp_path {{.Dir}}/t2; fastcgi_temp_path {{.Dir}}/t3;
  uwsgi_temp_path {{.Dir}}/t4; scgi_temp_path {{.Dir}}/t5;
{{if .Upstream}}  proxy_cache_path {{.Cache}} levels=1:2 keys_zone=c:64m max_size={{.Limit}} inactive=1d use_temp_path=off;
  upstream origin { server {{.Upstream}}; keepalive 64; keepalive_requests 1000000000; }
{{end}}  server {
    listen {{.Listen}} backlog=1024;
{{if .Upstream}}    location / {
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache c;
      proxy_cache_key $uri;
      proxy_cache_valid 200 1d;
      proxy_cache_lock on;
      proxy_cache_lock_timeout 600s;
      proxy_cache_lock_age 600s;
    }
{{else}}    root {{.Files}};
{{end}}  }
}
`

func (f *Fleet) startNginx(ctx context.Context, name string, o *Origin, set Setting) (*Target, error) {
	dir, err := f.folder(name)
	if err != nil {
		return nil, err
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	cache := set.Cache
	if cache == "" {
		cache = filepath.Join(dir, "cache")
	}
	values := map[string]any{
		"Root": os.Geteuid() == 0, "Dir": dir, "Listen": addr, "Files": f.Files(), "Log": name == NginxLog, "Upstream": "",
		"Cache": cache, "Limit": set.limit(),
	}
	if name != NginxFiles {
		u, err := url.Parse(o.Registry)
		if err != nil {
			return nil, fmt.Errorf("upstream's URL: %w", err)
		}
		values["Upstream"] = u.Host
	}
	tmpl, err := template.New("nginx").Parse(nginxConfig)
	if err != nil {
		return nil, fmt.Errorf("nginx.conf: %w", err)
	}
	var text strings.Builder
	if err := tmpl.Execute(&text, values); err != nil {
		return nil, fmt.Errorf("nginx.conf: %w", err)
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(text.String()), 0o644); err != nil {
		return nil, fmt.Errorf("nginx.conf: %w", err)
	}
	t := &Target{Name: set.label(name), Base: "http://" + addr, Cache: cache, dir: dir}
	return t, f.launch(ctx, t, proc.Spec{Path: f.opts.Nginx, Args: []string{"-c", conf, "-p", dir}, Log: filepath.Join(dir, "log")})
}
