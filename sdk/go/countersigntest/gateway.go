// Package countersigntest is a test kit for services that verify Countersign
// assertions. A unit test needs no gateway and no network:
//
//	gw := countersigntest.NewTestGateway(t, "orders")
//	handler := gw.Verifier().Middleware(mux)
//	handler.ServeHTTP(recorder, gw.NewRequest("GET", "https://orders.example.org/orders/7", nil, "spiffe://example.org/client"))
//
// It is for tests only: code that has a TestGateway can be any caller.
package countersigntest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	countersign "github.com/countersign/countersign/sdk/go"
)

// DefaultIssuer is the issuer of a test gateway that does not serve its keys.
const DefaultIssuer = "https://gateway.test"

// TestGateway signs assertions with a new key as a gateway does.
type TestGateway struct {
	// Issuer is the iss of assertions.
	Issuer string
	// Audience is the aud of assertions.
	Audience string
	// Now is the clock of assertions and verifiers.
	Now func() time.Time

	tb     testing.TB
	mutex  sync.Mutex
	keys   []jose.JSONWebKey
	signer jose.Signer
}

// Change changes the claims of an assertion before it is signed.
type Change func(claims map[string]any)

// NewTestGateway makes a gateway for this audience. Errors end the test.
func NewTestGateway(tb testing.TB, audience string) *TestGateway {
	tb.Helper()
	gateway := &TestGateway{Issuer: DefaultIssuer, Audience: audience, Now: time.Now, tb: tb}
	gateway.Rotate()
	return gateway
}

// Rotate makes a new key and signs with it from now on. Old keys stay in the key set.
func (g *TestGateway) Rotate() {
	g.tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	g.check(err)
	public := jose.JSONWebKey{Key: private.Public(), Algorithm: string(jose.ES256), Use: "sig"}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	g.check(err)
	public.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: public.KeyID}},
		(&jose.SignerOptions{}).WithType("countersign+jwt"))
	g.check(err)
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.keys, g.signer = append(g.keys, public), signer
}

// JWKS returns the public keys as the JSON text of a JWK set.
func (g *TestGateway) JWKS() []byte {
	g.tb.Helper()
	g.mutex.Lock()
	defer g.mutex.Unlock()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: g.keys})
	g.check(err)
	return text
}

// Serve serves the key set until the test ends, changes Issuer to the URL of the
// server, and returns the URL of the key set.
func (g *TestGateway) Serve() string {
	g.tb.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Header().Set("Cache-Control", "max-age=300")
		_, _ = w.Write(g.JWKS())
	})
	server := httptest.NewServer(mux)
	g.tb.Cleanup(server.Close)
	g.Issuer = server.URL
	return server.URL + "/.well-known/jwks.json"
}

// Verifier makes a verifier that has the keys of this gateway. It fetches nothing. Its
// options are for all settings but keys and clock.
func (g *TestGateway) Verifier(options ...countersign.Option) *countersign.AssertionVerifier {
	g.tb.Helper()
	options = append([]countersign.Option{
		countersign.WithJWKS(g.JWKS()),
		countersign.WithClock(func() time.Time { return g.Now() }),
	}, options...)
	verifier, err := countersign.NewAssertionVerifier(g.Issuer, g.Audience, options...)
	g.check(err)
	return verifier
}

// Headers returns the header fields of a request from the caller sub. url is absolute;
// its path and query are signed as they are.
func (g *TestGateway) Headers(method, url, sub string, changes ...Change) http.Header {
	g.tb.Helper()
	return http.Header{countersign.Header: {g.Assertion(method, url, sub, changes...)}}
}

// NewRequest returns a request from the caller sub as a server of net/http receives
// it, for handlers that are called without a server. url is absolute.
func (g *TestGateway) NewRequest(method, url string, body io.Reader, sub string, changes ...Change) *http.Request {
	g.tb.Helper()
	authority, target := g.split(url)
	request := httptest.NewRequest(method, target, body)
	request.Host = authority
	request.Header = g.Headers(method, url, sub, changes...)
	return request
}

// Assertion returns an assertion about a request from the caller sub.
func (g *TestGateway) Assertion(method, url, sub string, changes ...Change) string {
	g.tb.Helper()
	claims := g.Claims(method, url, sub)
	for _, change := range changes {
		change(claims)
	}
	return g.Sign(claims)
}

// Claims returns the claims of an assertion about a request from the caller sub.
func (g *TestGateway) Claims(method, url, sub string) map[string]any {
	g.tb.Helper()
	authority, target := g.split(url)
	path, query, hasQuery := strings.Cut(target, "?")
	id := make([]byte, 16)
	_, err := rand.Read(id)
	g.check(err)
	now := g.Now().Unix()
	claims := map[string]any{
		"iss": g.Issuer, "aud": g.Audience, "sub": sub, "iat": now, "exp": now + 30,
		"jti": base64.RawURLEncoding.EncodeToString(id),
		"htm": method, "htu": "https://" + authority + path,
		"authn": map[string]any{"methods": []string{"api-key"}, "at": now, "resumed": false},
	}
	if hasQuery {
		claims["htq"] = hash([]byte(query))
	}
	if rest, ok := strings.CutPrefix(sub, "spiffe://"); ok {
		domain, _, _ := strings.Cut(rest, "/")
		maps.Copy(claims, certificateClaims(sub, domain, now))
	}
	return claims
}

func certificateClaims(sub, domain string, now int64) map[string]any {
	none := []string{}
	return map[string]any{
		"client_cert": map[string]any{
			"x5t#S256": hash([]byte(sub)), "serial": "01", "issuer": "CN=Test CA",
			"not_before": now - 300, "not_after": now + 86400, "anchor": hash([]byte(domain)),
			"sans": map[string]any{"uri": []string{sub}, "dns": none, "email": none, "ip": none},
		},
		"authn": map[string]any{
			"methods": []string{"certificate"}, "trust_domain": domain, "revocation": "checked",
			"crl_this_update": now - 3600, "at": now, "resumed": false,
		},
	}
}

// Sign signs any claims.
func (g *TestGateway) Sign(claims map[string]any) string {
	g.tb.Helper()
	payload, err := json.Marshal(claims)
	g.check(err)
	g.mutex.Lock()
	defer g.mutex.Unlock()
	signed, err := g.signer.Sign(payload)
	g.check(err)
	token, err := signed.CompactSerialize()
	g.check(err)
	return token
}

// WithClaim sets a claim.
func WithClaim(name string, value any) Change {
	return func(claims map[string]any) { claims[name] = value }
}

// WithBody binds the assertion to a body.
func WithBody(body []byte) Change { return WithClaim("htb", hash(body)) }

// CallerBound makes an assertion that is bound to the caller only.
func CallerBound() Change {
	return func(claims map[string]any) {
		for _, name := range []string{"jti", "txn", "htm", "htu", "htq", "htb"} {
			delete(claims, name)
		}
	}
}

// Expired makes an assertion that expired an hour ago.
func Expired() Change {
	return func(claims map[string]any) {
		for _, name := range []string{"iat", "exp"} {
			if at, ok := claims[name].(int64); ok {
				claims[name] = at - 3600
			}
		}
	}
}

// split returns the authority and the target of an absolute URL, unchanged.
func (g *TestGateway) split(url string) (authority, target string) {
	g.tb.Helper()
	_, rest, ok := strings.Cut(url, "://")
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority, target = rest[:end], rest[end:]
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	if !ok || authority == "" || strings.Contains(target, "#") {
		g.tb.Fatalf("countersigntest: %q is not an absolute URL without fragment", url)
	}
	return authority, target
}

func (g *TestGateway) check(err error) {
	g.tb.Helper()
	if err != nil {
		g.tb.Fatalf("countersigntest: %v", err)
	}
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
