// Package countersigngrpc verifies Countersign assertions in gRPC servers.
//
//	server := grpc.NewServer(
//		grpc.ChainUnaryInterceptor(countersigngrpc.UnaryServerInterceptor(verifier)),
//		grpc.ChainStreamInterceptor(countersigngrpc.StreamServerInterceptor(verifier)))
//
// Handlers read the caller with countersign.CallerFromContext. Unverified paths have no
// effect, because every call is a POST. An interceptor sees no bytes of a body, so that
// a verifier with RequireBodyBinding refuses every call.
//
// A server that is used through grpc.Server.ServeHTTP gets a decoded path without the
// query. The interceptors then refuse every call with assertion-request-unclear: put
// the verifier's Middleware around the server instead.
package countersigngrpc

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	countersign "github.com/countersign/countersign/sdk/go"
)

// ErrorDomain is the domain of the google.rpc.ErrorInfo in errors. Its reason is the
// code of the refusal.
const ErrorDomain = "countersign"

// assertionKey is the metadata with the assertion.
var assertionKey = strings.ToLower(countersign.Header)

// UnaryServerInterceptor returns an interceptor that calls the handler only for calls
// with a verified assertion.
func UnaryServerInterceptor(verifier *countersign.AssertionVerifier) grpc.UnaryServerInterceptor {
	require(verifier)
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := authenticate(ctx, verifier, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return handler(ctx, request)
	}
}

// StreamServerInterceptor returns an interceptor that calls the handler only for
// streams with a verified assertion. It is verified once, when the stream begins.
func StreamServerInterceptor(verifier *countersign.AssertionVerifier) grpc.StreamServerInterceptor {
	require(verifier)
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := authenticate(stream.Context(), verifier, info.FullMethod)
		if err != nil {
			return err
		}
		return handler(server, authenticatedStream{stream, ctx})
	}
}

func require(verifier *countersign.AssertionVerifier) {
	if verifier == nil {
		panic("countersigngrpc: the verifier is nil")
	}
}

type authenticatedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the context with the caller.
func (s authenticatedStream) Context() context.Context { return s.ctx }

func authenticate(
	ctx context.Context, verifier *countersign.AssertionVerifier, method string,
) (context.Context, error) {
	fields, _ := metadata.FromIncomingContext(ctx)
	request := countersign.Request{Method: http.MethodPost, Hosts: fields.Get(":authority"), Target: method}
	if ctx.Value(http.ServerContextKey) != nil {
		// The call is from net/http, which does not pass on the undecoded path.
		request.Target = ""
	}
	caller, err := verifier.Verify(ctx, fields.Get(assertionKey), request)
	if err != nil {
		return nil, statusOf(err)
	}
	return countersign.ContextWithCaller(ctx, caller), nil
}

// statusOf converts a refusal: 401 is Unauthenticated, 403 PermissionDenied and 503
// Unavailable.
func statusOf(err error) error {
	var refused *countersign.AssertionRefused
	if !errors.As(err, &refused) {
		return status.Error(codes.Internal, "the assertion could not be verified")
	}
	code := codes.Unauthenticated
	switch refused.Status {
	case http.StatusForbidden:
		code = codes.PermissionDenied
	case http.StatusServiceUnavailable:
		code = codes.Unavailable
	}
	result := status.New(code, refused.Detail)
	info := &errdetails.ErrorInfo{Reason: refused.Code, Domain: ErrorDomain}
	if detailed, err := result.WithDetails(info); err == nil {
		result = detailed
	}
	return result.Err()
}
