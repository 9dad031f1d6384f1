package link

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"sync"
	"testing"
	"time"
)

// authority makes certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (a *authority) config(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test shard"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewTLS(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), a.pem)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// group joins n shards over loopback. change may alter each one's options.
func group(t testing.TB, n int, change func(*Options)) []*Mesh {
	t.Helper()
	listeners := make([]*Listener, n)
	addresses := make([]string, n)
	for i := range listeners {
		l, err := Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		listeners[i], addresses[i] = l, l.Addr()
	}
	return joinAll(t, listeners, addresses, change)
}

func joinAll(t testing.TB, listeners []*Listener, addresses []string, change func(*Options)) []*Mesh {
	t.Helper()
	meshes := make([]*Mesh, len(listeners))
	errs := make([]error, len(listeners))
	var work sync.WaitGroup
	for i, l := range listeners {
		work.Go(func() {
			o := Options{Group: "test", Epoch: 1, Self: i, Addresses: addresses}
			// Tests share the machine with others; those about time set these.
			o.Limit, o.Silence = time.Minute, time.Minute
			if change != nil {
				change(&o)
			}
			meshes[i], errs[i] = l.Join(context.Background(), o)
		})
	}
	work.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("shard %d: %v", i, err)
		}
	}
	t.Cleanup(func() { closeMeshes(meshes) })
	return meshes
}

func closeMeshes(meshes []*Mesh) {
	var work sync.WaitGroup
	for _, m := range meshes {
		work.Go(m.Close)
	}
	work.Wait()
}

// each runs f for all shards at once.
func each(meshes []*Mesh, f func(i int, m *Mesh)) {
	var work sync.WaitGroup
	for i, m := range meshes {
		work.Go(func() { f(i, m) })
	}
	work.Wait()
}
