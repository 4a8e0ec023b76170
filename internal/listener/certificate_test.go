package listener

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// writePair writes a self-signed certificate for a common name.
func writePair(t *testing.T, cert, key, name string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	write := func(file, kind string, der []byte) {
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(cert, "CERTIFICATE", der)
	write(key, "PRIVATE KEY", keyDER)
}

func commonName(t *testing.T, pair *tls.Certificate) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.Subject.CommonName
}

func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writePair(t, cert, key, "one")
	core, logs := observer.New(zap.InfoLevel)
	c, err := loadCertificate(cert, key, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c.now = func() time.Time { now = now.Add(2 * recheck); return now }
	touch := func(future time.Duration) {
		stamp := time.Now().Add(future)
		for _, f := range []string{cert, key} {
			if err := os.Chtimes(f, stamp, stamp); err != nil {
				t.Fatal(err)
			}
		}
	}

	writePair(t, cert, key, "two")
	touch(time.Hour)
	if got := commonName(t, c.current()); got != "two" {
		t.Errorf("after a change: %s", got)
	}
	if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := commonName(t, c.current()); got != "two" {
			t.Errorf("after a bad change: %s", got)
		}
	}
	if n := logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 1 {
		t.Errorf("%d lines about the bad pair, want 1", n)
	}
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	if got := commonName(t, c.current()); got != "two" {
		t.Errorf("with the file gone: %s", got)
	}
	writePair(t, cert, key, "three")
	touch(2 * time.Hour)
	if got := commonName(t, c.current()); got != "three" {
		t.Errorf("after the repair: %s", got)
	}
}

func TestTLSListenerSpeaksHTTP1Only(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writePair(t, cert, key, "x")
	l := start(t, Options{Cert: cert, Key: key}, answer("ok"))
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://" + l.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 1 {
		t.Errorf("protocol %s", resp.Proto)
	}
	until(t, "the connection to be idle and counted", func() bool {
		l.table.mu.Lock()
		defer l.table.mu.Unlock()
		return l.table.waiting.Len() == 1
	})
	// Plain HTTP to the TLS port is told so.
	c := dial(t, l)
	send(t, c, get)
	if resp, _ := response(t, c); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("plain request: %s", resp.Status)
	}
}

func TestListenWantsAGoodPair(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Listen(Options{Address: "127.0.0.1:0", Cert: filepath.Join(dir, "none"), Key: filepath.Join(dir, "none")}); err == nil {
		t.Error("no error for missing files")
	}
}
