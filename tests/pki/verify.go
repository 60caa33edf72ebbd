// Verifies a chain and the revocation lists of an authority's directory with
// Go's crypto/x509: verify DIR CHAIN client|server HOST
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func blocks(path string) [][]byte {
	rest, err := os.ReadFile(path)
	check(err)
	var found [][]byte
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return found
		}
		found = append(found, block.Bytes)
	}
}

func certificates(path string) []*x509.Certificate {
	var parsed []*x509.Certificate
	for _, der := range blocks(path) {
		certificate, err := x509.ParseCertificate(der)
		check(err)
		parsed = append(parsed, certificate)
	}
	return parsed
}

func main() {
	directory, presented := os.Args[1], certificates(os.Args[2])
	usage := map[string]x509.ExtKeyUsage{
		"client": x509.ExtKeyUsageClientAuth,
		"server": x509.ExtKeyUsageServerAuth,
	}[os.Args[3]]
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{usage},
		DNSName:       os.Args[4],
	}
	for _, root := range certificates(filepath.Join(directory, "trust.pem")) {
		options.Roots.AddCert(root)
	}
	for _, intermediate := range presented[1:] {
		options.Intermediates.AddCert(intermediate)
	}
	leaf := presented[0]
	chains, err := leaf.Verify(options)
	check(err)
	issuers := []string{"intermediate", "root"}
	// Where the root issued it there is no intermediate.
	for index, name := range issuers[len(issuers)+1-len(chains[0]):] {
		issuer := chains[0][index+1]
		der := blocks(filepath.Join(directory, "crl", name+".crl"))[0]
		list, err := x509.ParseRevocationList(der)
		check(err)
		check(list.CheckSignatureFrom(issuer))
		for _, entry := range list.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(chains[0][index].SerialNumber) == 0 {
				check(fmt.Errorf("%s is revoked", chains[0][index].Subject))
			}
		}
	}
	fmt.Println(leaf.URIs, leaf.DNSNames, leaf.IPAddresses, leaf.EmailAddresses)
}
