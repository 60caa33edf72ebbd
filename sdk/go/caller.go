package countersign

import (
	"context"
	"crypto/subtle"
	"slices"
	"time"
)

// Caller is the caller of a request, from a verified assertion.
type Caller struct {
	// Sub identifies the caller: a SPIFFE ID or other URI verbatim, dns:NAME,
	// mailto:ADDRESS, ip:ADDRESS or upn:NAME@REALM; for callers without certificate api-key:NAME or
	// client:ISSUER-NAME/CLIENT_ID. It is never the subject of a token.
	Sub string
	// TrustDomain is the trust domain that verified the certificate. It is empty for
	// callers without certificate.
	TrustDomain string
	// Certificate is the caller's leaf certificate. It is nil for callers without
	// certificate, and for callers with one if the gateway's route has
	// assertion = "compact". Do not conclude from nil that the caller has no
	// certificate: HasCertificate says whether it has.
	Certificate *Certificate
	// Authn says how and when the caller was authenticated.
	Authn Authn
	// Token has claims of the access token: the user on whose behalf the caller
	// acts. It is nil if the caller presented none.
	Token *Token

	// Issuer is the gateway.
	Issuer string
	// Audience is the service the assertion is for.
	Audience string
	// IssuedAt is when the assertion was signed.
	IssuedAt time.Time
	// ExpiresAt is from when on the assertion is not valid.
	ExpiresAt time.Time
	// ID is the unique identifier of a request-bound assertion (jti).
	ID string
	// Transaction is one identifier for a chain of requests (txn). It is for logs
	// only, it authenticates nothing.
	Transaction string

	// Claims has all claims, also those that this package does not know. Numbers are
	// json.Number.
	Claims map[string]any

	requestBound bool
	// bodyHash is htb, or nil.
	bodyHash *string
}

// Certificate is the leaf certificate of a caller.
type Certificate struct {
	// Thumbprint is the base64url SHA-256 of the DER (x5t#S256).
	Thumbprint string
	// Serial is the serial number in lower-case hexadecimal.
	Serial string
	// Issuer is the name of the issuer as text (RFC 4514). It is empty if the gateway
	// left it out: see IssuerTruncated.
	Issuer string
	// NotBefore is the start of validity.
	NotBefore time.Time
	// NotAfter is the end of validity.
	NotAfter time.Time
	// SANs has the subject alternative names, at most 16 of each type.
	SANs SANs
	// SANsTruncated is true if names are missing in SANs: a type had more than 16
	// names, or the assertion would have been too long. Regard a missing name as
	// unknown, not as absent.
	SANsTruncated bool
	// IssuerTruncated is true if the gateway left out Issuer, because the assertion
	// would have been too long.
	IssuerTruncated bool
	// Anchor is the base64url SHA-256 of the root certificate of the path.
	Anchor string
}

// SANs has the subject alternative names of a certificate by type.
type SANs struct {
	URI, DNS, Email, IP []string
}

// Authn says how and when a caller was authenticated.
type Authn struct {
	// Methods has any of certificate, token and api-key.
	Methods []string
	// Thumbprint is the base64url SHA-256 of the certificate's DER in compact
	// assertions. It is empty in others: Caller.CertificateThumbprint reads both.
	Thumbprint string
	// Revocation is checked, soft (unknown or stale lists were tolerated) or off. It
	// is empty for callers without certificate.
	Revocation string
	// CRLThisUpdate is thisUpdate of the revocation list that was checked, or zero.
	CRLThisUpdate time.Time
	// At is when the caller last proved that it has the key of its certificate or
	// credential.
	At time.Time
	// Resumed is true if the TLS session was resumed.
	Resumed bool
}

// Token has claims of the access token that the caller presented.
type Token struct {
	// Issuer is the token's issuer.
	Issuer string
	// Sub is the token's subject: the user on whose behalf the caller acts.
	Sub string
	// ClientID is the OAuth client.
	ClientID string
	// Scope has the granted scopes, separated by spaces.
	Scope string
	// ID is the token's identifier (jti).
	ID string
	// Hash is the base64url SHA-256 of the token (ath).
	Hash string
	// Claims has all claims of the token that the gateway passes on.
	Claims map[string]any
}

// HasCertificate returns whether the caller was authenticated with a certificate,
// according to Authn.Methods. It is also true for compact assertions, in which
// Certificate is nil.
func (c *Caller) HasCertificate() bool { return slices.Contains(c.Authn.Methods, "certificate") }

// CertificateThumbprint returns the base64url SHA-256 of the DER of the caller's
// certificate. Compact assertions have it in authn, others in client_cert. It is empty
// for callers without certificate.
func (c *Caller) CertificateThumbprint() string {
	if c.Certificate != nil {
		return c.Certificate.Thumbprint
	}
	return c.Authn.Thumbprint
}

// RequestBound returns whether the assertion is for one request. Otherwise it is
// for any request of its caller to its audience.
func (c *Caller) RequestBound() bool { return c.requestBound }

// MatchesBody compares a body with htb. bound is false if the assertion has no htb,
// and therefore says nothing about the body.
func (c *Caller) MatchesBody(body []byte) (matches, bound bool) {
	if c.bodyHash == nil {
		return false, false
	}
	return equal(*c.bodyHash, hash(body)), true
}

// equal compares in constant time.
func equal(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

type callerKey struct{}

// CallerFromContext returns the caller of the request with this context. ok is false
// if there is none: the request was to an unverified path, or the verifier's
// middleware is not around this handler.
func CallerFromContext(ctx context.Context) (caller *Caller, ok bool) {
	caller, _ = ctx.Value(callerKey{}).(*Caller)
	return caller, caller != nil
}

// ContextWithCaller returns a context with this caller. It is for adapters, which
// call it after a successful verification. With nil, the context has no caller.
func ContextWithCaller(ctx context.Context, caller *Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}
