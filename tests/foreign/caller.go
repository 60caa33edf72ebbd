// Calls the gateway with a certificate, and prints the status of the response:
// caller ADDRESS HOST ROOT CHAIN KEY 1.2|1.3
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	address, host := os.Args[1], os.Args[2]
	root, err := os.ReadFile(os.Args[3])
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	pair, err := tls.LoadX509KeyPair(os.Args[4], os.Args[5])
	check(err)
	version := uint16(tls.VersionTLS13)
	if os.Args[6] == "1.2" {
		version = tls.VersionTLS12
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      roots,
		ServerName:   host,
		MinVersion:   version,
		MaxVersion:   version,
	}}}
	request, err := http.NewRequest("GET", "https://"+address+"/a", nil)
	check(err)
	request.Host = host
	response, err := client.Do(request)
	check(err)
	fmt.Print(response.StatusCode)
}
