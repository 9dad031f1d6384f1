package mesh

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// identity is what a node shows to peers and how it judges theirs.
type identity struct {
	certificate tls.Certificate
	roots       *x509.CertPool
	gossipKey   []byte // 32 bytes
	authority   []byte // DER
	// sessions make the second connection to a peer cheaper: when many are lost
	// at once, the work of making them anew must not cost the next ones.
	sessions tls.ClientSessionCache
}

// Certificates are valid for so long that a wrong clock does not matter: what
// is trusted is the secret, which is changed by restarting with another one.
var (
	validFrom  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	validUntil = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// derive makes key material of the secret. Without a secret the namespace
// alone goes in: traffic is still encrypted, but anybody could know the key.
func derive(secret, namespace, purpose string, n int) ([]byte, error) {
	b, err := hkdf.Key(sha256.New, []byte(secret), []byte("skein/"+namespace), purpose, n)
	if err != nil {
		return nil, fmt.Errorf("derive %s from the secret: %w", purpose, err)
	}
	return b, nil
}

// newIdentity issues a certificate for id from the authority that the secret
// stands for.
func newIdentity(secret, namespace string, id ids.Node) (*identity, error) {
	seed, err := derive(secret, namespace, "authority", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	gossipKey, err := derive(secret, namespace, "gossip", 32)
	if err != nil {
		return nil, err
	}
	caKey := ed25519.NewKeyFromSeed(seed)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "skein cluster"},
		NotBefore: validFrom, NotAfter: validUntil,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	root, err := x509.ParseCertificate(caDER)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	leaf := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: string(id)},
		NotBefore: validFrom, NotAfter: validUntil, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, public, caKey)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return &identity{
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		roots:       roots, gossipKey: gossipKey, authority: caDER, sessions: tls.NewLRUClientSessionCache(4096),
	}, nil
}

// PEM gives this node's certificate, its key and the cluster's authority as
// texts, for connections beside the mesh.
func (m *Mesh) PEM() (certificate, key, authority string) {
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(m.identity.certificate.PrivateKey)
	if err != nil {
		panic("mesh: a key of its own can't be encoded: " + err.Error())
	}
	return text("CERTIFICATE", m.identity.certificate.Certificate[0]), text("PRIVATE KEY", der), text("CERTIFICATE", m.identity.authority)
}

func (i *identity) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{i.certificate},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: i.roots, NextProtos: []string{"h2"},
	}
}

// client expects the node id that is called.
func (i *identity) client(id ids.Node) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{i.certificate}, NextProtos: []string{"h2"},
		ServerName: string(id), ClientSessionCache: i.sessions,
		// Nodes are named by id and not by host, which TLS can't compare; so
		// chain and name are checked here instead.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("the peer shows no certificate")
			}
			leaf := cs.PeerCertificates[0]
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: i.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
				return fmt.Errorf("the peer has another secret or namespace: %w", err)
			}
			if got := ids.Node(leaf.Subject.CommonName); got != id {
				return fmt.Errorf("called node %s and reached %s", id, got)
			}
			return nil
		},
	}
}

// Caller is the node that sent a request, as its certificate says.
func Caller(r *http.Request) ids.Node {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return ids.Node(r.TLS.PeerCertificates[0].Subject.CommonName)
}

func newBoot() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails, by its documentation
	return hex.EncodeToString(b)
}
