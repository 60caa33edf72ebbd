package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/sdk/go/countersigntest"
)

// freeAddress returns an address on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

func TestExample(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	gw.Serve()
	address := freeAddress(t)
	t.Setenv("GATEWAY", gw.Issuer)
	t.Setenv("LISTEN", address)
	go main()
	for attempts := 0; ; attempts++ {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			_ = connection.Close()
			break
		}
		if attempts > 1000 {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	url := "http://" + address + "/orders/7"
	for _, test := range []struct {
		headers http.Header
		status  int
		body    string
	}{
		{gw.Headers("GET", url, "spiffe://example.org/client"), 200, "order 7, requested by spiffe://example.org/client\n"},
		{nil, 401, "assertion-missing"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header = test.headers
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != test.status || !strings.Contains(string(body), test.body) {
			t.Errorf("%s %s %v", response.Status, body, err)
		}
	}
}

// TestExampleIsShort counts lines of code: without package, imports, comments and
// lines that only close a block.
func TestExampleIsShort(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(source), "\n)\n")
	lines := 0
	for line := range strings.Lines(code) {
		if line = strings.TrimSpace(line); line != "" && line != "}" {
			lines++
		}
	}
	if lines == 0 || lines > 12 {
		t.Errorf("%d lines", lines)
	}
}
