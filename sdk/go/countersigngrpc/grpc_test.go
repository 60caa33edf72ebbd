package countersigngrpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	countersign "github.com/countersign/countersign/sdk/go"
	"github.com/countersign/countersign/sdk/go/countersigngrpc"
	"github.com/countersign/countersign/sdk/go/countersigntest"
	"github.com/countersign/countersign/sdk/go/internal/realgateway"
)

const (
	sub   = "spiffe://example.org/ns/shop/sa/checkout"
	check = "/grpc.health.v1.Health/Check"
	watch = "/grpc.health.v1.Health/Watch"
	host  = "orders.example.org"
	// httpHost is a name in the certificate of httptest.
	httpHost = "example.com"
)

// service requires a caller in each of its methods.
type service struct {
	grpc_health_v1.UnimplementedHealthServer
	t   *testing.T
	sub string
}

func (s service) respond(ctx context.Context) (*grpc_health_v1.HealthCheckResponse, error) {
	if caller, ok := countersign.CallerFromContext(ctx); !ok || caller.Sub != s.sub {
		s.t.Error("the handler sees no caller")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func (s service) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	return s.respond(ctx)
}

func (s service) Watch(_ *grpc_health_v1.HealthCheckRequest, stream grpc_health_v1.Health_WatchServer) error {
	response, err := s.respond(stream.Context())
	if err != nil {
		return err
	}
	return stream.Send(response)
}

func newServer(t *testing.T, verifier *countersign.AssertionVerifier) *grpc.Server {
	t.Helper()
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(countersigngrpc.UnaryServerInterceptor(verifier)),
		grpc.ChainStreamInterceptor(countersigngrpc.StreamServerInterceptor(verifier)),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(codes.NotFound, "unknown") }))
	grpc_health_v1.RegisterHealthServer(server, service{t: t, sub: sub})
	t.Cleanup(server.Stop)
	return server
}

// serve starts a real server and returns a client that names host.
func serve(t *testing.T, verifier *countersign.AssertionVerifier) *grpc.ClientConn {
	t.Helper()
	server := newServer(t, verifier)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	return dial(t, listener.Addr().String(), host, insecure.NewCredentials())
}

func dial(t *testing.T, address, authority string, transport credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	client, err := grpc.NewClient(address, grpc.WithTransportCredentials(transport), grpc.WithAuthority(authority))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func call(t *testing.T, client *grpc.ClientConn, method string, tokens ...string) error {
	t.Helper()
	ctx := t.Context()
	for _, token := range tokens {
		ctx = metadata.AppendToOutgoingContext(ctx, "countersign-assertion", token)
	}
	return client.Invoke(ctx, method, &grpc_health_v1.HealthCheckRequest{}, &grpc_health_v1.HealthCheckResponse{})
}

// reason returns the gRPC code and the code of the refusal.
func reason(err error) (codes.Code, string) {
	converted := status.Convert(err)
	for _, detail := range converted.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == countersigngrpc.ErrorDomain {
			return converted.Code(), info.Reason
		}
	}
	return converted.Code(), ""
}

func TestCallsOfARealServer(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	client := serve(t, gw.Verifier())
	token := gw.Assertion("POST", "https://orders.example.org"+check, sub)
	if err := call(t, client, check, token); err != nil {
		t.Error(err)
	}
	assertion := func(method, url string, changes ...countersigntest.Change) string {
		return gw.Assertion(method, url, sub, changes...)
	}
	url := "https://orders.example.org" + check
	stranger := countersigntest.NewTestGateway(t, "orders")
	for _, test := range []struct {
		method string
		tokens []string
		code   codes.Code
		want   string
	}{
		{check, nil, codes.Unauthenticated, countersign.CodeMissing},
		{check, []string{token, token}, codes.Unauthenticated, countersign.CodeDuplicate},
		{check, []string{"x"}, codes.Unauthenticated, countersign.CodeMalformed},
		{check, []string{token + "," + token}, codes.Unauthenticated, countersign.CodeMalformed},
		{check, []string{stranger.Assertion("POST", url, sub)}, codes.Unauthenticated, countersign.CodeUnknownKey},
		{check, []string{assertion("POST", url, countersigntest.Expired())}, codes.Unauthenticated, countersign.CodeExpired},
		{check, []string{assertion("POST", url, countersigntest.WithClaim("aud", "x"))}, codes.PermissionDenied, countersign.CodeAudience},
		{check, []string{assertion("GET", url)}, codes.PermissionDenied, countersign.CodeMethod},
		{check, []string{assertion("POST", "https://evil.example"+check)}, codes.PermissionDenied, countersign.CodeAuthority},
		{check, []string{assertion("POST", "https://orders.example.org:443"+check)}, codes.PermissionDenied, countersign.CodeAuthority},
		{check, []string{assertion("POST", "https://orders.example.org"+watch)}, codes.PermissionDenied, countersign.CodePath},
		{check, []string{assertion("POST", url+"?")}, codes.PermissionDenied, countersign.CodeQuery},
		{"/grpc.health.v1.Health/C%68eck", []string{token}, codes.PermissionDenied, countersign.CodePath},
		{check + "?", []string{token}, codes.PermissionDenied, countersign.CodeQuery},
		{"/grpc.health.v1.Health/C%68eck", []string{assertion("POST", "https://orders.example.org/grpc.health.v1.Health/C%68eck")}, codes.NotFound, ""},
	} {
		code, got := reason(call(t, client, test.method, test.tokens...))
		if code != test.code || got != test.want {
			t.Errorf("%s: got %v %q, want %v %q", test.method, code, got, test.code, test.want)
		}
	}
}

func TestCallsThroughARealGateway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gateway := realgateway.Start(t, "http://"+listener.Addr().String(), `protocol = "h2"`, "")
	verifier := gateway.Verifier(t, realgateway.Audience)
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(countersigngrpc.UnaryServerInterceptor(verifier)),
		grpc.ChainStreamInterceptor(countersigngrpc.StreamServerInterceptor(verifier)))
	grpc_health_v1.RegisterHealthServer(server, service{t: t, sub: realgateway.Caller})
	t.Cleanup(server.Stop)
	go func() { _ = server.Serve(listener) }()
	client := dial(t, gateway.Listener, "localhost", credentials.NewTLS(gateway.TLS))
	if err := call(t, client, check, "an assertion of the caller is removed"); err != nil {
		t.Error(err)
	}
	stream, err := grpc_health_v1.NewHealthClient(client).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Error(err)
	}
	// The service itself refuses calls that do not come through the gateway.
	direct := dial(t, listener.Addr().String(), "localhost", insecure.NewCredentials())
	if code, got := reason(call(t, direct, check)); code != codes.Unauthenticated || got != countersign.CodeMissing {
		t.Error(code, got)
	}
}

func TestStreamsOfARealServer(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	client := grpc_health_v1.NewHealthClient(serve(t, gw.Verifier()))
	receive := func(token string) error {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "countersign-assertion", token)
		stream, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	if err := receive(gw.Assertion("POST", "https://orders.example.org"+watch, sub)); err != nil {
		t.Error(err)
	}
	if code, got := reason(receive(gw.Assertion("POST", "https://orders.example.org"+check, sub))); code != codes.PermissionDenied || got != countersign.CodePath {
		t.Error(code, got)
	}
}

func TestReplayAndMissingKeys(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	client := serve(t, gw.Verifier(countersign.WithReplayStore(countersign.NewMemoryReplayStore(1))))
	url := "https://orders.example.org" + check
	token := gw.Assertion("POST", url, sub)
	if err := call(t, client, check, token); err != nil {
		t.Error(err)
	}
	if code, got := reason(call(t, client, check, token)); code != codes.PermissionDenied || got != countersign.CodeReplayed {
		t.Error(code, got)
	}
	if code, got := reason(call(t, client, check, gw.Assertion("POST", url, sub))); code != codes.Unavailable || got != countersign.CodeReplayCacheFull {
		t.Error(code, got)
	}
}

func TestBodyBindingRefusesCalls(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	client := serve(t, gw.Verifier(countersign.RequireBodyBinding()))
	token := gw.Assertion("POST", "https://orders.example.org"+check, sub, countersigntest.WithBody([]byte("\x00\x00\x00\x00\x00")))
	if code, got := reason(call(t, client, check, token)); code != codes.PermissionDenied || got != countersign.CodeBodyNotBound {
		t.Error(code, got)
	}
}

// overHTTP starts a server of net/http with this handler, and returns a client of it.
func overHTTP(t *testing.T, handler http.Handler) *grpc.ClientConn {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	transport := credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	return dial(t, server.Listener.Addr().String(), httpHost, transport)
}

func TestServeHTTPRefusesAndNeedsTheMiddleware(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	verifier := gw.Verifier()
	token := gw.Assertion("POST", "https://"+httpHost+check, sub)
	if code, got := reason(call(t, overHTTP(t, newServer(t, verifier)), check, token)); code != codes.PermissionDenied || got != countersign.CodeRequestUnclear {
		t.Error(code, got)
	}
	plain := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(plain, service{t: t, sub: sub})
	t.Cleanup(plain.Stop)
	client := overHTTP(t, verifier.Middleware(plain))
	if err := call(t, client, check, token); err != nil {
		t.Error(err)
	}
	if code, _ := reason(call(t, client, "/grpc.health.v1.Health/C%68eck", token)); code != codes.PermissionDenied {
		t.Error(code)
	}
	if code, _ := reason(call(t, client, check)); code != codes.Unauthenticated {
		t.Error(code)
	}
}
