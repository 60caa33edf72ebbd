package countersign_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	countersign "github.com/countersign/countersign/sdk/go"
	"github.com/countersign/countersign/sdk/go/internal/realgateway"
)

// send sends a request through the gateway. The host is not changed.
func send(t *testing.T, gateway *realgateway.Gateway, method, host, target, body string) (int, string) {
	t.Helper()
	connection, err := tls.Dial("tcp", gateway.Listener, gateway.TLS)
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
	gateway := realgateway.Start(t, service.URL, "", `bind_body = "1MiB"`)
	verifier := gateway.Verifier(t, realgateway.Audience, countersign.RequireBodyBinding(),
		countersign.WithReplayStore(countersign.NewMemoryReplayStore(1000)))
	mutex.Lock()
	handler = verifier.Middleware(http.HandlerFunc(who))
	mutex.Unlock()
	for _, target := range targets {
		if strings.ContainsAny(target, "\xc3\xa9") || target == "/orders/%00" {
			continue // The gateway refuses these.
		}
		for _, hostname := range []string{"localhost", "orders.example.org:8443", "[::1]:9001"} {
			status, body := send(t, gateway, "GET", hostname, target, "")
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
	if status, body := send(t, gateway, "POST", "localhost", "/orders?new", "seven"); status != 200 || body != "spiffe://example.org/client seven" {
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
	_, err := gateway.Verifier(t, "payments").Verify(t.Context(), []string{token}, requestTo("POST", "localhost", "/orders?new"))
	expectCode(t, code(err), countersign.CodeAudience)
}
