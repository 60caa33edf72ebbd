package countersigngin_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	countersign "github.com/countersign/countersign/sdk/go"
	"github.com/countersign/countersign/sdk/go/countersigngin"
	"github.com/countersign/countersign/sdk/go/countersigntest"
	"github.com/countersign/countersign/sdk/go/internal/realgateway"
)

const sub = "spiffe://example.org/ns/shop/sa/checkout"

func who(c *gin.Context) {
	caller, ok := countersigngin.Caller(c)
	if !ok {
		c.String(http.StatusOK, "no caller")
		return
	}
	c.String(http.StatusOK, caller.Sub)
}

// serve starts a real server and returns its address.
func serve(t *testing.T, verifier *countersign.AssertionVerifier) string {
	t.Helper()
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.UseRawPath = true
	engine.UnescapePathValues = true
	engine.Use(countersigngin.Middleware(verifier))
	engine.Any("/orders/*rest", who)
	group := engine.Group("/mounted")
	group.Any("/:id", who)
	engine.Any("/again", func(c *gin.Context) {
		c.Request.URL.Path, c.Request.URL.RawPath = "/mounted/7", ""
		engine.HandleContext(c)
	})
	engine.GET("/healthz", who)
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func send(t *testing.T, address, method, target, host string, tokens ...string) (*http.Response, string) {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	fields := ""
	for _, token := range tokens {
		fields += "Countersign-Assertion: " + token + "\r\n"
	}
	_, err = io.WriteString(connection, method+" "+target+" HTTP/1.1\r\nHost: "+host+"\r\n"+fields+"Connection: close\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func expectProblem(t *testing.T, response *http.Response, body, want string) {
	t.Helper()
	var problem struct {
		Status int
		Code   string
	}
	err := json.Unmarshal([]byte(body), &problem)
	if err != nil || problem.Code != want || problem.Status != response.StatusCode ||
		response.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %s %s, want %s", response.Status, body, want)
	}
}

func TestRawTargetsThroughARealServer(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	address := serve(t, gw.Verifier())
	for _, host := range []string{"orders.example.org", "orders.example.org:8443", "[::1]:9001"} {
		for _, target := range []string{
			"/orders/7", "/orders/%37", "/orders/a%2Fb", "/orders/7;v=1", "/orders/7?", "/orders/7?a=1&b=%20+",
			"/orders/a+b", "/orders/caf\xc3\xa9", "/orders/7?q=caf\xc3\xa9", "/mounted/a%2Fb", "/mounted/7?x", "/again",
		} {
			token := gw.Assertion("GET", "https://"+host+target, sub)
			response, body := send(t, address, "GET", target, host, token)
			if response.StatusCode != http.StatusOK || body != sub {
				t.Errorf("%s %s: %s %s", host, target, response.Status, body)
			}
		}
	}
}

func TestOtherRequestsGetProblemDetails(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	address := serve(t, gw.Verifier())
	const host = "orders.example.org"
	token := gw.Assertion("GET", "https://orders.example.org/orders/7", sub)
	for _, test := range []struct {
		method, target, host string
		tokens               []string
		want                 string
	}{
		{"GET", "/orders/7", host, nil, countersign.CodeMissing},
		{"GET", "/orders/7", host, []string{token, token}, countersign.CodeDuplicate},
		{"GET", "/orders/7", host, []string{token + "," + token}, countersign.CodeMalformed},
		{"POST", "/orders/7", host, []string{token}, countersign.CodeMethod},
		{"GET", "/orders/7", "evil.example", []string{token}, countersign.CodeAuthority},
		{"GET", "/orders/%37", host, []string{token}, countersign.CodePath},
		{"GET", "/orders/7;x", host, []string{token}, countersign.CodePath},
		{"GET", "/mounted/7", host, []string{token}, countersign.CodePath},
		{"GET", "/again", host, []string{token}, countersign.CodePath},
		{"GET", "/orders/7?", host, []string{token}, countersign.CodeQuery},
		{"GET", "http://orders.example.org/orders/7", host, []string{token}, countersign.CodeRequestUnclear},
		{"GET", "/no/route", host, nil, countersign.CodeMissing},
	} {
		response, body := send(t, address, test.method, test.target, test.host, test.tokens...)
		expectProblem(t, response, body, test.want)
	}
}

func TestRequestsThroughARealGateway(t *testing.T) {
	engine := gin.New()
	service := httptest.NewServer(engine)
	t.Cleanup(service.Close)
	gateway := realgateway.Start(t, service.URL, "", "")
	engine.Use(countersigngin.Middleware(gateway.Verifier(t, realgateway.Audience)))
	engine.GET("/orders/*rest", who)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: gateway.TLS}}
	for _, target := range []string{"/orders/7", "/orders/%37", "/orders/7;v=1", "/orders/7?", "/orders/7?a=%20+&b", "/orders/~a+b"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+gateway.Listener, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.URL.Opaque, request.Host = target, "orders.example.org:8443"
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || string(body) != realgateway.Caller {
			t.Errorf("%s: %s %s %v", target, response.Status, body, err)
		}
	}
	client.CloseIdleConnections()
}

func TestUnverifiedPaths(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	address := serve(t, gw.Verifier(countersign.WithUnverifiedPaths("/healthz")))
	response, body := send(t, address, "GET", "/healthz", "any")
	if response.StatusCode != http.StatusOK || body != "no caller" {
		t.Error(response.Status, body)
	}
	response, body = send(t, address, "GET", "/health%7A", "any")
	expectProblem(t, response, body, countersign.CodeMissing)
	response, body = send(t, address, "POST", "/healthz", "any")
	expectProblem(t, response, body, countersign.CodeMissing)
}

// Gin binds middleware when a route is registered.
func TestProtectDoesNotDependOnTheOrderOfRoutes(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	gw := countersigntest.NewTestGateway(t, "orders")
	engine := gin.New()
	engine.GET("/early/:id", who)
	early := engine.Group("/group")
	engine.Use(func(c *gin.Context) { c.Next() })
	early.GET("/:id", who)
	engine.GET("/healthz", who)
	server := httptest.NewServer(countersigngin.Protect(engine, gw.Verifier(countersign.WithUnverifiedPaths("/healthz"))))
	t.Cleanup(server.Close)
	address := server.Listener.Addr().String()
	const host = "orders.example.org"
	for _, target := range []string{"/early/7", "/early/%37?x=1", "/group/7"} {
		response, body := send(t, address, "GET", target, host, gw.Assertion("GET", "https://"+host+target, sub))
		if response.StatusCode != http.StatusOK || body != sub {
			t.Errorf("%s: %s %s", target, response.Status, body)
		}
		response, body = send(t, address, "GET", target, host)
		expectProblem(t, response, body, countersign.CodeMissing)
		response, body = send(t, address, "GET", target, host, gw.Assertion("GET", "https://"+host+"/early/8", sub))
		expectProblem(t, response, body, countersign.CodePath)
	}
	// Gin would redirect the first without calling any middleware.
	for _, target := range []string{"/early/7/", "/no/route", "//early/7", "/healthz/"} {
		response, body := send(t, address, "GET", target, host)
		expectProblem(t, response, body, countersign.CodeMissing)
	}
	response, body := send(t, address, "GET", "/healthz", "any")
	if response.StatusCode != http.StatusOK || body != "no caller" {
		t.Error(response.Status, body)
	}
}

// Engine.Handler takes over connections for h2c: the later requests on them would reach
// the engine only.
func TestConnectionsAreNotUpgradedToH2CInsideOfTheMiddleware(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	gw := countersigntest.NewTestGateway(t, "orders")
	engine := gin.New()
	engine.UseH2C = true
	engine.GET("/healthz", who)
	verifier := gw.Verifier(countersign.WithUnverifiedPaths("/healthz"))
	server := httptest.NewServer(verifier.Middleware(engine.Handler()))
	t.Cleanup(server.Close)
	for _, upgrade := range []string{"h2c", "H2C", "websocket, h2c", "websocket\r\nUpgrade: h2c"} {
		response, body := send(t, server.Listener.Addr().String(), "GET", "/healthz", "any\r\nConnection: Upgrade, HTTP2-Settings"+
			"\r\nUpgrade: "+upgrade+"\r\nHTTP2-Settings: AAMAAABkAAQAAP__")
		if response.StatusCode != http.StatusOK || body != "no caller" {
			t.Error(upgrade, response.Status, body)
		}
	}
}

func TestNothingIsProtectedWithoutAVerifier(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	for name, call := range map[string]func(){
		"middleware": func() { countersigngin.Middleware(nil) },
		"verifier":   func() { countersigngin.Protect(gin.New(), nil) },
		"engine":     func() { countersigngin.Protect(nil, gw.Verifier()) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			call()
		}()
	}
}

func TestBodiesAreCompared(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	engine := gin.New()
	engine.Use(countersigngin.Middleware(gw.Verifier(countersign.RequireBodyBinding())))
	engine.POST("/orders", func(c *gin.Context) {
		var order struct{ ID int }
		if err := c.BindJSON(&order); err != nil || order.ID != 7 {
			t.Error(order, err)
		}
	})
	const body = `{"ID":7}`
	for sent, want := range map[string]int{body: http.StatusOK, `{"ID":8}`: http.StatusForbidden} {
		recorder := httptest.NewRecorder()
		engine.ServeHTTP(recorder, gw.NewRequest("POST", "https://orders.example.org/orders", strings.NewReader(sent), sub,
			countersigntest.WithBody([]byte(body))))
		if recorder.Code != want {
			t.Error(recorder.Code, recorder.Body)
		}
	}
}
