package main

import (
	"crypto/x509"
	"fmt"
	"os"

	"cistern/cache"
	"cistern/cache/bandwidth"
	"cistern/config"
	"cistern/proxy"
	"cistern/upstream"
)

// newUpstreams makes the clients of all upstreams, with their policies. None
// is dialled.
func newUpstreams(list []config.Upstream, agent string, getenv func(string) string) ([]proxy.Upstream, error) {
	out := make([]proxy.Upstream, 0, len(list))
	for _, u := range list {
		roots, err := rootCAs(u.CAFile)
		if err != nil {
			closeUpstreams(out)
			return nil, fmt.Errorf("upstream %s: %w", u.Name, err)
		}
		client, err := upstream.New(upstream.Options{
			Name: u.Name, Endpoints: u.Endpoints, Credentials: credentialsOf(u, getenv), TokenHosts: u.TokenHosts,
			Network: u.Network, RootCAs: roots, MaxConnections: u.MaxConnections, UserAgent: agent,
		})
		if err != nil {
			closeUpstreams(out)
			return nil, err
		}
		policy := cache.Policy{StaleIfError: u.StaleIfError, MaxStreams: u.MaxStreams, RangeMiss: cache.RangeMiss(u.RangeMiss), Bandwidth: bandwidth.New(u.Rate)}
		for _, r := range u.Tags {
			policy.Tags = append(policy.Tags, cache.TagRule{Match: r.Match, Fresh: r.Fresh})
		}
		out = append(out, proxy.Upstream{Client: client, Policy: policy})
	}
	return out, nil
}

func closeUpstreams(list []proxy.Upstream) {
	for _, u := range list {
		u.Client.Close()
	}
}

// rootCAs are the system's authorities and those of a PEM file; nil for "".
func rootCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a minimal image has none
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file: %s holds no PEM certificate", file)
	}
	return pool, nil
}
