// Package realgateway runs a real gateway for the tests of this repository.
package realgateway

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	countersign "github.com/countersign/countersign/sdk/go"
)

// Issuer and Audience are those of assertions of the gateway. Caller is the caller
// whose certificate is in Gateway.TLS.
const (
	Issuer   = "https://gateway.example.org:9080"
	Audience = "orders"
	Caller   = "spiffe://example.org/client"
)

// Gateway is a running gateway in front of a service.
type Gateway struct {
	// Listener is the address for callers, and KeysURL that of the key set.
	Listener, KeysURL string
	// CAFile is the file with the root certificate.
	CAFile string
	// TLS is the configuration of the caller.
	TLS *tls.Config
}

// Verifier returns a verifier that fetches the keys of the gateway.
func (g *Gateway) Verifier(t *testing.T, audience string, options ...countersign.Option) *countersign.AssertionVerifier {
	t.Helper()
	options = append(options, countersign.WithJWKSURL(g.KeysURL), countersign.WithCAFile(g.CAFile))
	verifier, err := countersign.NewAssertionVerifier(Issuer, audience, options...)
	if err == nil {
		err = verifier.FetchKeys(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

// Start runs the program in COUNTERSIGN_BINARY in front of the service upstream. routes
// and upstreams are further lines of these sections.
func Start(t *testing.T, upstream, upstreams, routes string) *Gateway {
	t.Helper()
	binary := os.Getenv("COUNTERSIGN_BINARY")
	if binary == "" {
		const reason = "COUNTERSIGN_BINARY is not set: no test with a real gateway"
		if os.Getenv("COUNTERSIGN_REQUIRE_TOOLS") == "1" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	directory := t.TempDir()
	run := exec.Command(binary, "init", directory, "--trust-domain", "example.org", "--host", "localhost",
		"--upstream", upstream, "--no-passphrase")
	if output, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	file := filepath.Join(directory, "countersign.toml")
	configuration := string(read(t, file))
	for _, change := range [][2]string{
		{`"127.0.0.1:8443"`, `"127.0.0.1:0"`},
		{`"127.0.0.1:9080"`, `"127.0.0.1:0"`},
		{`"127.0.0.1:9901"`, `"127.0.0.1:0"`},
		{`issuer = "https://localhost:9080"`, `issuer = "` + Issuer + `"`},
		{`endpoints = ["` + upstream + `"]`, `endpoints = ["` + upstream + `"]` + "\n" + upstreams},
		{`audience = "service"`, `audience = "` + Audience + `"` + "\n" + routes},
	} {
		if !strings.Contains(configuration, change[0]) {
			t.Fatalf("%s is not in the configuration", change[0])
		}
		configuration = strings.Replace(configuration, change[0], change[1], 1)
	}
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	addresses := serve(t, binary, file, filepath.Join(directory, "ready.json"))
	certs := filepath.Join(directory, "certs")
	client, err := tls.LoadX509KeyPair(filepath.Join(certs, "issued", "client.pem"), filepath.Join(certs, "issued", "client.key"))
	if err != nil {
		t.Fatal(err)
	}
	gateway := &Gateway{
		Listener: addresses["listener"],
		KeysURL:  "https://" + addresses["public"] + "/.well-known/jwks.json",
		CAFile:   filepath.Join(certs, "trust.pem"),
		TLS: &tls.Config{
			RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{client},
			ServerName: "localhost", MinVersion: tls.VersionTLS13,
		},
	}
	gateway.TLS.RootCAs.AppendCertsFromPEM(read(t, gateway.CAFile))
	return gateway
}

// serve starts the gateway and returns its addresses when it is ready.
func serve(t *testing.T, binary, file, ready string) map[string]string {
	t.Helper()
	var output bytes.Buffer
	command := exec.Command(binary, "serve", "--config", file, "--ready-file", ready)
	command.Stdout, command.Stderr = io.Discard, &output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGKILL)
		<-ended
	})
	deadline := time.After(20 * time.Second)
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	for {
		var addresses map[string]string
		if text, err := os.ReadFile(ready); err == nil && json.Unmarshal(text, &addresses) == nil {
			return addresses
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the gateway ended: %v: %s", err, output.String())
		case <-deadline:
			t.Fatal("the gateway is not ready")
		case <-ticks.C:
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
