package link

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// NewTLS makes the configuration of both sides of a link from PEM texts: each
// shows a certificate of the authority and wants one. Host names are not
// compared: shards are where the node says they are, and whoever has a
// certificate of the group's authority belongs to it.
func NewTLS(certificate, key, authority string) (*tls.Config, error) {
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		return nil, fmt.Errorf("link identity: %w; give a certificate and its key as PEM", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(authority)) {
		return nil, errors.New("link identity: no certificate in the authority's PEM; give the CA that signed the shards' certificates")
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{pair},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		// Whole records from the first byte on: activations are not web pages.
		DynamicRecordSizingDisabled: true,
		// The chain is checked below, for both sides and without a host name.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the other side shows no certificate")
			}
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
			})
			return err
		},
	}, nil
}
