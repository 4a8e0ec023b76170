package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// Bounds of what a client may do to us; there is no bound on a whole response,
// since a large blob over a slow link is a good one.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 120 * time.Second
	maxHeaderBytes    = 128 << 10
	freshGrace        = 500 * time.Millisecond // for unused connections, at the end
)

// Options say what to listen on.
type Options struct {
	// Address is host:port, port 0 for any free one, or "unix:" and a path.
	Address string
	// Cert and Key are PEM files, read again when they change; both empty: plain HTTP.
	Cert, Key string
	// MaxConnections bounds the connections at once; 0: derived from the limit
	// of open files, at most MaxConnections.
	MaxConnections int
	// Uploads leaves the bodies of PUT requests to the handler, with no bound; those of
	// others are thrown away.
	Uploads bool
	// Log gets what net/http has to say; nil: nothing is logged.
	Log *zap.Logger
}

// Listener is a bound address. It is served by one Serve and ended by one
// Shutdown or Close, which may come from any goroutine.
type Listener struct {
	table    *table
	uploads  bool
	tls      *tls.Config
	http     *http.Server
	end      context.CancelFunc // of the context of all requests
	handlers handlers
}

// Stats are the connections of a listener.
type Stats struct {
	Connections int    // now
	Limit       int    // the cap
	Refused     uint64 // over the cap, with all others busy
	Evicted     uint64 // waiting ones that made room
}

// Listen binds the address; connections queue up in the kernel until Serve.
// Its errors say what to do about them.
func Listen(o Options) (*Listener, error) {
	log := o.Log
	if log == nil {
		log = zap.NewNop()
	}
	l := &Listener{uploads: o.Uploads, handlers: handlers{idle: make(chan struct{})}}
	if o.Cert != "" {
		cert, err := loadCertificate(o.Cert, o.Key, log)
		if err != nil {
			return nil, err
		}
		l.tls = cert.config()
	}
	ln, err := bind(o.Address)
	if err != nil {
		return nil, err
	}
	limit := o.MaxConnections
	if limit == 0 {
		limit = maxConnections()
	}
	l.table = newTable(ln, limit)
	l.http = newServer(l.table, log)
	var all context.Context
	all, l.end = context.WithCancel(context.Background())
	l.http.BaseContext = func(net.Listener) context.Context { return all }
	return l, nil
}

func newServer(t *table, log *zap.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         &protocols,
		// "OPTIONS *" is refused and logged as all else is.
		DisableGeneralOptionsHandler: true,
		ConnState:                    t.state,
		ErrorLog:                     errorLog(log),
	}
}

// Addr is the address bound, with the port chosen.
func (l *Listener) Addr() net.Addr { return l.table.Addr() }

// Serve answers requests with h until Shutdown or Close, and gives nil then.
// A panic in h ends its connection and is logged once.
func (l *Listener) Serve(h http.Handler) error {
	bare := withoutBody(h, bodyTimeout)
	if l.uploads {
		bare = exceptUploads(h, bare, bodyTimeout)
	}
	l.http.Handler = l.handlers.counted(bare)
	var ln net.Listener = l.table
	if l.tls != nil {
		ln = tls.NewListener(ln, l.tls)
	}
	if err := l.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown stops accepting at once, lets responses finish until ctx is done,
// and then cuts those that are left. It reports whether there were any. No
// handler runs when it returns.
func (l *Listener) Shutdown(ctx context.Context) (cut bool) {
	l.table.hurryFresh(time.Now().Add(freshGrace))
	if err := l.http.Shutdown(ctx); err == nil || ctx.Err() == nil {
		l.Close()
		return false
	}
	l.Close()
	return true
}

// Close cuts everything, ends the contexts of all requests (net/http watches no connection
// whose request has a body that is not read), and waits for the handlers to notice. It is needed
// after a Listen that no Serve followed, and does no harm after Shutdown.
func (l *Listener) Close() {
	l.end()
	_ = l.http.Close()
	_ = l.table.Close() // http.Server knows only listeners that it served
	l.handlers.wait()
}

// Stats counts connections.
func (l *Listener) Stats() Stats {
	t := l.table
	t.mu.Lock()
	defer t.mu.Unlock()
	return Stats{Connections: len(t.conns), Limit: t.limit, Refused: t.refused, Evicted: t.evicted}
}
