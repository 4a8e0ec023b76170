package listener

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// recheck is how often the files of a certificate are looked at, at most.
const recheck = time.Second

// certificate is a pair of PEM files that is read again when either changes:
// whoever renews certificates writes the files and is done.
type certificate struct {
	cert, key string
	log       *zap.Logger
	now       func() time.Time

	mu      sync.Mutex // guards what follows
	pair    *tls.Certificate
	seen    [2]stamp
	checked time.Time
}

// stamp tells one version of a file from the next.
type stamp struct {
	modified time.Time
	size     int64
}

// loadCertificate reads the pair, which must be good at start.
func loadCertificate(cert, key string, log *zap.Logger) (*certificate, error) {
	c := &certificate{cert: cert, key: key, log: log, now: time.Now}
	seen, err := c.stamps()
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	if err := c.read(seen); err != nil {
		return nil, err
	}
	c.checked = c.now()
	return c, nil
}

// config is for clients of our listener: HTTP/1.1 only, since clients resume a
// cut HTTP/1.1 body and give up on a cut HTTP/2 stream (P 2.14).
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current(), nil
		},
	}
}

// current is the newest good pair. One that cannot be read, or that is half
// written, leaves the old one in place, and is reported once.
func (c *certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Sub(c.checked) < recheck {
		return c.pair
	}
	c.checked = now
	seen, err := c.stamps()
	if err != nil || seen == c.seen {
		return c.pair // a missing file is on its way back, most likely
	}
	if err := c.read(seen); err != nil {
		c.seen = seen
		c.log.Error("the new certificate is not used, the old one stays", zap.Error(err))
		return c.pair
	}
	c.log.Info("certificate read again", zap.String("cert", c.cert))
	return c.pair
}

// read loads the files that had the stamps seen.
func (c *certificate) read(seen [2]stamp) error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("read certificate %s with key %s: %w", c.cert, c.key, err)
	}
	c.pair, c.seen = &pair, seen
	return nil
}

func (c *certificate) stamps() (out [2]stamp, err error) {
	for i, name := range []string{c.cert, c.key} {
		st, err := os.Stat(name)
		if err != nil {
			return out, err
		}
		out[i] = stamp{st.ModTime(), st.Size()}
	}
	return out, nil
}
