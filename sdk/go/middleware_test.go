package countersign_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	countersign "github.com/countersign/countersign/sdk/go"
	"github.com/countersign/countersign/sdk/go/countersigntest"
)

const sub = "spiffe://example.org/ns/shop/sa/checkout"

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

// who responds with the caller and the target that the handler sees.
func who(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	caller, ok := countersign.CallerFromContext(r.Context())
	if !ok {
		_, _ = fmt.Fprint(w, "no caller")
		return
	}
	_, _ = fmt.Fprintf(w, "%s %s", caller.Sub, body)
}

// exchange sends bytes to a server and returns the response.
func exchange(t *testing.T, address, request string) (*http.Response, string) {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	return exchangeOn(t, connection, request)
}

func exchangeOn(t *testing.T, connection net.Conn, request string) (*http.Response, string) {
	t.Helper()
	if _, err := io.WriteString(connection, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	response, err := http.ReadResponse(bufio.NewReader(connection), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// TestPathsOfTheStandardLibraryAreDecoded shows what the README warns of.
func TestPathsOfTheStandardLibraryAreDecoded(t *testing.T) {
	mux := http.NewServeMux()
	for _, pattern := range []string{"/{x}", "/a/{x}"} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "%s %s %s", pattern, r.URL.Path, r.RequestURI)
		})
	}
	gw := countersigntest.NewTestGateway(t, "orders")
	server := httptest.NewServer(gw.Verifier().Middleware(mux))
	defer server.Close()
	for _, test := range [][2]string{
		{"/a%2Fb", "/{x} /a/b /a%2Fb"},
		{"/a%2Fb|", "/a/{x} /a/b| /a%2Fb|"},
	} {
		address := server.Listener.Addr().String()
		assertion := gw.Assertion("GET", "http://"+address+test[0], sub)
		_, body := exchange(t, address, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n\r\n",
			test[0], address, countersign.Header, assertion))
		if body != test[1] {
			t.Errorf("%s: %s", test[0], body)
		}
	}
}

// problemCode returns the code of problem details after checking their form.
func problemCode(t *testing.T, response *http.Response, body string) string {
	t.Helper()
	var problem struct {
		Type, Title, Code, Detail string
		Status                    int
	}
	if err := json.Unmarshal([]byte(body), &problem); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	if problem.Status != response.StatusCode || problem.Type != "about:blank" ||
		problem.Title != http.StatusText(problem.Status) || problem.Detail == "" ||
		response.Header.Get("Content-Type") != "application/problem+json" ||
		response.Header.Get("Cache-Control") != "no-store" ||
		(response.Header.Get("WWW-Authenticate") == "Countersign") != (problem.Status == http.StatusUnauthorized) {
		t.Errorf("%+v %v", problem, response.Header)
	}
	return problem.Code
}

func newServer(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = discardLog()
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// targets are request targets that copies of this code have got wrong.
var targets = []string{
	"/orders/7", "/orders/%37", "/orders/a%2Fb", "/orders/a%2fb", "/orders;v=1/7;x", "/orders/7?", "/orders/7?a=1&b=%20+",
	"/orders/7?a?b", "/or+ders/7", "/orders/caf\xc3\xa9", "/orders/7?q=caf\xc3\xa9", "/orders/%C3%A9", "/orders/%00",
	"/mounted/a%2Fb?x", "/mounted/%37", "/orders/&=:@!$'()*,", "/orders/~%7E", "/?", "/",
}

func TestRawTargetsThroughARealServer(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, audience)
	mux := http.NewServeMux()
	mux.HandleFunc("/mounted/", http.StripPrefix("/mounted", http.HandlerFunc(who)).ServeHTTP)
	mux.HandleFunc("/", who)
	// The handler itself, since http.ServeMux redirects some of these targets.
	verifier := gw.Verifier()
	outside := newServer(t, verifier.Middleware(mux))
	inside := newServer(t, http.StripPrefix("/orders", verifier.Middleware(http.HandlerFunc(who))))
	for _, hostname := range []string{"orders.example.org", "orders.example.org:8443", "[::1]:9001", "[2001:db8::1]", "127.0.0.1:80"} {
		for _, target := range targets {
			token := gw.Assertion("GET", "https://"+hostname+target, sub)
			send := func(address, target, hostname string) (*http.Response, string) {
				return exchange(t, address, "GET "+target+" HTTP/1.1\r\nHost: "+hostname+
					"\r\nCountersign-Assertion: "+token+"\r\nConnection: close\r\n\r\n")
			}
			if response, body := send(outside, target, hostname); response.StatusCode != 200 || body != sub+" " {
				t.Errorf("%s %s: %d %s", hostname, target, response.StatusCode, body)
			}
			if strings.HasPrefix(target, "/orders/") {
				if response, body := send(inside, target, hostname); response.StatusCode != 200 || body != sub+" " {
					t.Errorf("%s %s: %d %s", hostname, target, response.StatusCode, body)
				}
			}
			response, body := send(outside, target, "other.example.org")
			expectCode(t, problemCode(t, response, body), countersign.CodeAuthority, target)
			response, body = send(outside, target+"#", hostname)
			if response.StatusCode != http.StatusBadRequest {
				expectCode(t, problemCode(t, response, body), countersign.CodeRequestUnclear, target)
			}
		}
	}
}

func TestOtherSpellingsOfATargetAreRefused(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, audience)
	address := newServer(t, gw.Verifier().Middleware(http.HandlerFunc(who)))
	for _, test := range []struct{ signed, sent, want string }{
		{"/orders/7", "/orders/%37", countersign.CodePath},
		{"/orders/%37", "/orders/7", countersign.CodePath},
		{"/orders/a/b", "/orders/a%2Fb", countersign.CodePath},
		{"/orders/a%2fb", "/orders/a%2Fb", countersign.CodePath},
		{"/orders/7", "/orders//7", countersign.CodePath},
		{"/orders/7", "//orders/7", countersign.CodePath},
		{"/orders/7", "/x/../orders/7", countersign.CodePath},
		{"/orders/7", "/orders/7;x", countersign.CodePath},
		{"/orders/7", "/orders/7?", countersign.CodeQuery},
		{"/orders/7?", "/orders/7", countersign.CodeQuery},
		{"/orders/7?a=%20", "/orders/7?a=+", countersign.CodeQuery},
		{"/orders/caf%C3%A9", "/orders/caf\xc3\xa9", countersign.CodePath},
		{"/orders/7", "http://orders.example.org/orders/7", countersign.CodeRequestUnclear},
		{"/", "*", countersign.CodeRequestUnclear},
	} {
		method := "GET"
		if test.sent == "*" {
			method = "OPTIONS"
		}
		token := gw.Assertion(method, "https://orders.example.org"+test.signed, sub)
		response, body := exchange(t, address, method+" "+test.sent+
			" HTTP/1.1\r\nHost: orders.example.org\r\nCountersign-Assertion: "+token+"\r\nConnection: close\r\n\r\n")
		if test.sent == "*" && response.StatusCode == http.StatusOK && body == "" {
			continue // net/http answers OPTIONS * itself.
		}
		expectCode(t, problemCode(t, response, body), test.want, test)
	}
}

func TestFieldsOfARealRequest(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, audience)
	address := newServer(t, gw.Verifier().Middleware(http.HandlerFunc(who)))
	token := gw.Assertion("GET", "https://orders.example.org/orders/7", sub)
	send := func(fields ...string) (*http.Response, string) {
		return exchange(t, address, "GET /orders/7 HTTP/1.1\r\n"+strings.Join(fields, "\r\n")+"\r\nConnection: close\r\n\r\n")
	}
	const name, right = "Countersign-Assertion: ", "Host: orders.example.org"
	for _, fields := range [][]string{{right, name + token}, {"hOST: orders.example.org", "countersign-ASSERTION:  " + token + " "}} {
		if response, body := send(fields...); response.StatusCode != 200 {
			t.Errorf("%v %s", fields, body)
		}
	}
	for _, test := range []struct {
		fields []string
		want   string
	}{
		{[]string{right}, countersign.CodeMissing},
		{[]string{right, "Countersign_Assertion: " + token}, countersign.CodeMissing},
		{[]string{right, name}, countersign.CodeMalformed},
		{[]string{right, name + token, name + token}, countersign.CodeDuplicate},
		{[]string{right, name + token, name}, countersign.CodeDuplicate},
		{[]string{right, name + token + ", " + token}, countersign.CodeMalformed},
		{[]string{right, name + "\xff"}, countersign.CodeMalformed},
		{[]string{"Host: evil.example", "X-Forwarded-Host: orders.example.org", "Forwarded: host=orders.example.org",
			name + token}, countersign.CodeAuthority},
	} {
		response, body := send(test.fields...)
		expectCode(t, problemCode(t, response, body), test.want, test.fields)
	}
	// net/http itself refuses requests without a host or with two.
	for _, fields := range [][]string{{name + token}, {right, right, name + token}} {
		if response, _ := send(fields...); response.StatusCode != http.StatusBadRequest {
			t.Error(fields, response.Status)
		}
	}
	// HTTP/1.0 needs no host.
	response, body := exchange(t, address, "GET /orders/7 HTTP/1.0\r\n"+name+token+"\r\n\r\n")
	expectCode(t, problemCode(t, response, body), countersign.CodeRequestUnclear)
	// A head has no body.
	if response, _ := exchange(t, address, "HEAD /orders/7 HTTP/1.1\r\n"+right+"\r\nConnection: close\r\n\r\n"); response.StatusCode != 401 {
		t.Error(response.Status)
	}
}

func TestHTTP2(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, audience)
	server := httptest.NewUnstartedServer(gw.Verifier().Middleware(http.HandlerFunc(who)))
	server.EnableHTTP2 = true
	server.Config.ErrorLog = discardLog()
	server.StartTLS()
	t.Cleanup(server.Close)
	client := server.Client()
	send := func(signed, target, host string, change func(*http.Request)) (*http.Response, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.URL.Opaque = target
		request.Host = host
		request.Header = gw.Headers("GET", "https://orders.example.org"+signed, sub)
		if change != nil {
			change(request)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		if response.ProtoMajor != 2 {
			t.Fatal(response.Proto)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response, string(body)
	}
	for _, target := range []string{"/orders/7", "/orders/a%2Fb", "/orders/%37", "/orders/7?", "/orders;v=1/7?a+b"} {
		if response, body := send(target, target, "orders.example.org", nil); response.StatusCode != 200 || body != sub+" " {
			t.Errorf("%s: %d %s", target, response.StatusCode, body)
		}
	}
	response, body := send("/orders/7", "/orders/%37", "orders.example.org", nil)
	expectCode(t, problemCode(t, response, body), countersign.CodePath)
	response, body = send("/orders/7", "/orders/7", "evil.example", nil)
	expectCode(t, problemCode(t, response, body), countersign.CodeAuthority)
	response, body = send("/orders/7", "/orders/7", "orders.example.org", func(r *http.Request) {
		r.Header[countersign.Header] = append(r.Header[countersign.Header], r.Header[countersign.Header]...)
	})
	expectCode(t, problemCode(t, response, body), countersign.CodeDuplicate)
}

func TestHostFieldThatContradictsTheAuthority(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, audience)
	verifier := gw.Verifier()
	for _, test := range []struct {
		hosts []string
		want  string
	}{
		{nil, ""}, {[]string{"orders.example.org"}, ""}, {[]string{"evil.example"}, countersign.CodeRequestUnclear},
		{[]string{"orders.example.org", "orders.example.org"}, countersign.CodeRequestUnclear},
	} {
		request := gw.NewRequest("GET", "https://orders.example.org/orders/7", nil, sub)
		if test.hosts != nil {
			request.Header["Host"] = test.hosts
		}
		_, err := verifier.VerifyRequest(request)
		expectCode(t, code(err), test.want, test.hosts)
	}
	// A request of a client has no RequestURI.
	request := gw.NewRequest("GET", "https://orders.example.org/orders/7", nil, sub)
	request.RequestURI = ""
	_, err := verifier.VerifyRequest(request)
	expectCode(t, code(err), countersign.CodeRequestUnclear)
}

func TestPrefixAndAuthorityOfAnotherProxy(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, audience)
	address := newServer(t, gw.Verifier(countersign.WithAuthority("orders.example.org"), countersign.WithPathPrefix("/api")).
		Middleware(http.HandlerFunc(who)))
	token := gw.Assertion("GET", "https://orders.example.org/api/orders/a%2Fb?x", sub)
	response, body := exchange(t, address, "GET /orders/a%2Fb?x HTTP/1.1\r\nHost: 10.0.0.7:8080\r\nCountersign-Assertion: "+
		token+"\r\nConnection: close\r\n\r\n")
	if response.StatusCode != 200 {
		t.Error(body)
	}
}

func TestUnverifiedPaths(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, audience)
	address := newServer(t, gw.Verifier(countersign.WithUnverifiedPaths("/healthz", "/a%2Fb")).Middleware(http.HandlerFunc(who)))
	for _, test := range []struct {
		method, target string
		passes         bool
	}{
		{"GET", "/healthz", true}, {"HEAD", "/healthz", true}, {"GET", "/healthz?verbose", true}, {"GET", "/a%2Fb", true},
		{"POST", "/healthz", false}, {"OPTIONS", "/healthz", false}, {"GET", "/healthz/", false}, {"GET", "/health%7A", false},
		{"GET", "//healthz", false}, {"GET", "/a/b", false}, {"GET", "/a%2fb", false}, {"GET", "/x/../healthz", false},
		{"GET", "http://orders.example.org/healthz", false}, {"GET", "/Healthz", false}, {"GET", "/healthz;x", false},
	} {
		response, body := exchange(t, address, test.method+" "+test.target+
			" HTTP/1.1\r\nHost: orders.example.org\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		if (response.StatusCode == 200) != test.passes {
			t.Error(test, response.Status)
		}
		if test.passes && test.method == "GET" && body != "no caller" {
			t.Error(test, body)
		}
	}
	// The handler sees no caller, even if there is an assertion, or one of an outer handler.
	request := gw.NewRequest("GET", "https://orders.example.org/healthz", nil, sub)
	request = request.WithContext(countersign.ContextWithCaller(request.Context(), &countersign.Caller{Sub: "outer"}))
	recorder := httptest.NewRecorder()
	gw.Verifier(countersign.WithUnverifiedPaths("/healthz")).Middleware(http.HandlerFunc(who)).ServeHTTP(recorder, request)
	if recorder.Body.String() != "no caller" {
		t.Error(recorder.Body)
	}
}

func TestOnlyUpgradesToH2CAreRemoved(t *testing.T) {
	verifier := countersigntest.NewTestGateway(t, "orders").Verifier(countersign.WithUnverifiedPaths("/healthz"))
	for upgrade, want := range map[string]string{"websocket": "websocket", "h2c": "", "foo, H2C": ""} {
		received := httptest.NewRequest("GET", "/healthz", nil)
		received.Header.Set("Upgrade", upgrade)
		received.Header.Set("HTTP2-Settings", "AAMAAABkAAQAAP__")
		authenticated, err := verifier.Authenticate(received)
		if err != nil {
			t.Fatal(err)
		}
		settings := authenticated.Header.Get("HTTP2-Settings")
		if got := authenticated.Header.Get("Upgrade"); got != want || (settings == "") != (want == "") {
			t.Errorf("%s: %q, settings %q", upgrade, got, settings)
		}
		if received.Header.Get("Upgrade") != upgrade {
			t.Errorf("%s: the received request was changed", upgrade)
		}
	}
}

func TestBodiesAreCompared(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, audience)
	verifier := gw.Verifier(countersign.RequireBodyBinding(), countersign.WithMaxBody(10))
	address := newServer(t, verifier.Middleware(http.HandlerFunc(who)))
	send := func(body string, changes ...countersigntest.Change) (*http.Response, string) {
		token := gw.Assertion("POST", "https://orders.example.org/orders", sub, changes...)
		return exchange(t, address, fmt.Sprintf("POST /orders HTTP/1.1\r\nHost: orders.example.org\r\nContent-Length: %d\r\n"+
			"Countersign-Assertion: %s\r\nConnection: close\r\n\r\n%s", len(body), token, body))
	}
	for _, body := range []string{"", "one", "0123456789"} {
		if response, got := send(body, countersigntest.WithBody([]byte(body))); response.StatusCode != 200 || got != sub+" "+body {
			t.Error(body, got)
		}
	}
	for _, test := range []struct {
		body    string
		changes []countersigntest.Change
		want    string
	}{
		{"two", []countersigntest.Change{countersigntest.WithBody([]byte("one"))}, countersign.CodeBody},
		{"one", nil, countersign.CodeBodyNotBound},
		{"0123456789a", []countersigntest.Change{countersigntest.WithBody([]byte("0123456789a"))}, countersign.CodeBodyNotBound},
	} {
		response, body := send(test.body, test.changes...)
		expectCode(t, problemCode(t, response, body), test.want, test.body)
	}
	// A chunked body.
	token := gw.Assertion("POST", "https://orders.example.org/orders", sub, countersigntest.WithBody([]byte("one")))
	response, body := exchange(t, address, "POST /orders HTTP/1.1\r\nHost: orders.example.org\r\nTransfer-Encoding: chunked\r\n"+
		"Countersign-Assertion: "+token+"\r\nConnection: close\r\n\r\n3\r\none\r\n0\r\n\r\n")
	if response.StatusCode != 200 || body != sub+" one" {
		t.Error(body)
	}
	// The body of a refused request is not read.
	unread := &countingReader{}
	request := gw.NewRequest("POST", "https://orders.example.org/orders", unread, sub,
		countersigntest.WithBody(nil), countersigntest.WithClaim("aud", "payments"))
	_, err := verifier.VerifyRequest(request)
	expectCode(t, code(err), countersign.CodeAudience)
	if unread.reads != 0 {
		t.Error("the body was read")
	}
}

type countingReader struct{ reads int }

func (r *countingReader) Read([]byte) (int, error) {
	r.reads++
	return 0, io.EOF
}

func TestOtherErrorsHaveNoDetails(t *testing.T) {
	recorder := httptest.NewRecorder()
	countersign.WriteProblem(recorder, io.ErrUnexpectedEOF)
	if recorder.Code != 500 || bytes.Contains(recorder.Body.Bytes(), []byte("EOF")) {
		t.Error(recorder.Code, recorder.Body)
	}
}
