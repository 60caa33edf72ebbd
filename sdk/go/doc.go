// Package countersign verifies Countersign assertions: they prove which caller
// sent exactly this request.
//
// A Countersign gateway authenticates the caller and sends the service one
// header field, Countersign-Assertion, with a signed statement about this
// request. A service makes one [AssertionVerifier] and puts its middleware
// around all handlers:
//
//	verifier, err := countersign.NewAssertionVerifier(
//		"https://gateway.example.org:9080", "orders",
//		countersign.WithJWKSURL("https://gateway.example.org:9080/.well-known/jwks.json"))
//	…
//	log.Fatal(http.ListenAndServe("127.0.0.1:9001", verifier.Middleware(mux)))
//
// A handler reads the caller from the context of its request:
//
//	caller, ok := countersign.CallerFromContext(r.Context())
//
// Requests without a valid assertion never reach the handler and get problem
// details (RFC 9457) with a stable code, see [AssertionRefused].
//
// Everything that depends on a framework is in other modules: countersigngin,
// countersigngrpc and countersignredis. The package countersigntest is for the
// tests of services.
package countersign

// Version is the version of this package.
const Version = "0.1.0"
