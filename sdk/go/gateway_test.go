package countersign_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	countersign "github.com/countersign/countersign/sdk/go"
)

// realGateway is a running gateway in front of a service.
type realGateway struct {
	listener, keys, directory string
	roots                     *x509.CertPool
	client                    tls.Certificate
}

// startGateway runs COUNTERSIGN_BINARY in front of a service.
func startGateway(t *testing.T, upstream string) *realGateway {
	t.Helper()
	binary := os.Getenv("COUNTERSIGN_BINARY")
	if binary == "" {
		skipOrFail(t, "COUNTERSIGN_BINARY is not set: no test with a real gateway")
	}
	directory := t.TempDir()
	run := exec.Command(binary, "init", directory, "--trust-domain", "example.org", "--host", "localhost",
		"--upstream", upstream, "--no-passphrase")
	if output, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	file := filepath.Join(directory, "countersign.toml")
	configuration := string(readFile(t, file))
	for _, change := range [][2]string{
		{`"127.0.0.1:8443"`, `"127.0.0.1:0"`}, {`"127.0.0.1:9080"`, `"127.0.0.1:0"`}, {`"127.0.0.1:9901"`, `"127.0.0.1:0"`},
		{`issuer = "https://localhost:9080"`, `issuer = "` + issuer + `"`},
		{`audience = "service"`, `audience = "orders"` + "\n" + `bind_body = "1MiB"`},
	} {
		if !strings.Contains(configuration, change[0]) {
			t.Fatalf("%s is not in the configuration", change[0])
		}
		configuration = strings.Replace(configuration, change[0], change[1], 1)
	}
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	addresses := serveGateway(t, binary, file, filepath.Join(directory, "ready.json"))
	certs := filepath.Join(directory, "certs")
	client, err := tls.LoadX509KeyPair(filepath.Join(certs, "issued", "client.pem"), filepath.Join(certs, "issued", "client.key"))
	if err != nil {
		t.Fatal(err)
	}
	gateway := &realGateway{
		listener: addresses["listener"], directory: directory, roots: x509.NewCertPool(), client: client,
		keys: "https://" + addresses["public"] + "/.well-known/jwks.json",
	}
	gateway.roots.AppendCertsFromPEM(readFile(t, filepath.Join(certs, "trust.pem")))
	return gateway
}

// serveGateway starts the gateway and returns its addresses when it is ready.
func serveGateway(t *testing.T, binary, file, ready string) map[string]string {
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

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// send sends a request through the gateway. The host is not changed.
func (g *realGateway) send(t *testing.T, method, host, target, body string) (int, string) {
	t.Helper()
	connection, err := tls.Dial("tcp", g.listener, &tls.Config{
		RootCAs: g.roots, Certificates: []tls.Certificate{g.client}, ServerName: "localhost", MinVersion: tls.VersionTLS13,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	response, text := exchangeOn(t, connection, fmt.Sprintf(
		"%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nCountersign-Assertion: of.the.caller\r\nConnection: close\r\n\r\n%s",
		method, target, host, len(body), body))
	return response.StatusCode, text
}

func TestRealGateway(t *testing.T) {
	var mutex sync.Mutex
	var handler http.Handler = http.NotFoundHandler()
	var last http.Header
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mutex.Lock()
		current := handler
		last = r.Header.Clone()
		mutex.Unlock()
		current.ServeHTTP(w, r)
	}))
	t.Cleanup(service.Close)
	gateway := startGateway(t, service.URL)
	ca := countersign.WithCAFile(filepath.Join(gateway.directory, "certs", "trust.pem"))
	verifier := newVerifier(t, countersign.WithJWKSURL(gateway.keys), ca, countersign.RequireBodyBinding(),
		countersign.WithReplayStore(countersign.NewMemoryReplayStore(1000)))
	if err := verifier.FetchKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	mutex.Lock()
	handler = verifier.Middleware(http.HandlerFunc(who))
	mutex.Unlock()
	for _, target := range targets {
		if strings.ContainsAny(target, "\xc3\xa9") || target == "/orders/%00" {
			continue // The gateway refuses these.
		}
		for _, hostname := range []string{"localhost", "orders.example.org:8443", "[::1]:9001"} {
			status, body := gateway.send(t, "GET", hostname, target, "")
			if status == http.StatusOK && body == "spiffe://example.org/client " {
				continue
			}
			// The gateway may refuse an ambiguous target, but the verifier must not.
			if strings.Contains(body, "assertion-") || status == http.StatusOK {
				t.Errorf("%s %s: %d %s", hostname, target, status, body)
			} else {
				t.Logf("refused by the gateway: %s %s: %d", hostname, target, status)
			}
		}
	}
	if status, body := gateway.send(t, "POST", "localhost", "/orders?new", "seven"); status != 200 || body != "spiffe://example.org/client seven" {
		t.Errorf("%d %s", status, body)
	}
	// The last assertion, sent again to the service itself.
	mutex.Lock()
	token := last.Get(countersign.Header)
	mutex.Unlock()
	address := strings.TrimPrefix(service.URL, "http://")
	for _, test := range []struct{ method, target, host, body, want string }{
		{"POST", "/orders?new", "localhost", "seven", countersign.CodeReplayed},
		{"POST", "/orders?new", "localhost", "eight", countersign.CodeBody},
		{"POST", "/orders?old", "localhost", "seven", countersign.CodeQuery},
		{"POST", "/orders", "localhost", "seven", countersign.CodeQuery},
		{"POST", "/orders/7?new", "localhost", "seven", countersign.CodePath},
		{"POST", "/orders?new", "evil.example", "seven", countersign.CodeAuthority},
		{"PUT", "/orders?new", "localhost", "seven", countersign.CodeMethod},
	} {
		response, body := exchange(t, address, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n"+
			"Countersign-Assertion: %s\r\nConnection: close\r\n\r\n%s", test.method, test.target, test.host, len(test.body), token, test.body))
		expectCode(t, problemCode(t, response, body), test.want, test)
	}
	other := newVerifierFor(t, "payments", countersign.WithJWKSURL(gateway.keys), ca)
	_, err := other.Verify(t.Context(), []string{token}, requestTo("POST", "localhost", "/orders?new"))
	expectCode(t, code(err), countersign.CodeAudience)
}
