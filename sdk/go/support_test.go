package countersign_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	countersign "github.com/countersign/countersign/sdk/go"
)

const (
	issuer   = "https://gateway.example.org:9080"
	audience = "orders"
	host     = "orders.example.org"
	start    = int64(1_770_000_000)
)

// object is a JSON object.
type object = map[string]any

// signingKey signs any text, valid or not.
type signingKey struct {
	algorithm string
	ec        *ecdsa.PrivateKey
	ed        ed25519.PrivateKey
}

func newES256() *signingKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return &signingKey{algorithm: "ES256", ec: key}
}

func newEdDSA() *signingKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return &signingKey{algorithm: "EdDSA", ed: key}
}

func encode(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func hash(data string) string {
	sum := sha256.Sum256([]byte(data))
	return encode(sum[:])
}

func text(value any) string {
	written, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(written)
}

// jwk returns the public key without kid.
func (k *signingKey) jwk() object {
	if k.ed != nil {
		return object{"kty": "OKP", "crv": "Ed25519", "x": encode(k.ed.Public().(ed25519.PublicKey))}
	}
	public, err := k.ec.PublicKey.ECDH()
	if err != nil {
		panic(err)
	}
	point := public.Bytes()
	return object{"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])}
}

func (k *signingKey) kid() string { return hash(text(k.jwk())) }

// public returns the published key.
func (k *signingKey) public() object {
	return with(k.jwk(), "kid", k.kid(), "use", "sig", "alg", k.algorithm)
}

func (k *signingKey) header() object {
	return object{"alg": k.algorithm, "kid": k.kid(), "typ": "countersign+jwt"}
}

func (k *signingKey) signature(input string) []byte {
	if k.ed != nil {
		return ed25519.Sign(k.ed, []byte(input))
	}
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, k.ec, digest[:])
	if err != nil {
		panic(err)
	}
	return append(padded(r), padded(s)...)
}

func padded(number *big.Int) []byte { return number.FillBytes(make([]byte, 32)) }

// sign signs the texts of a header and of a payload.
func (k *signingKey) sign(header, payload string) string {
	input := encode([]byte(header)) + "." + encode([]byte(payload))
	return input + "." + encode(k.signature(input))
}

// assertion signs claims under the right header.
func (k *signingKey) assertion(claims object) string { return k.sign(text(k.header()), text(claims)) }

func keySet(keys ...*signingKey) []byte {
	set := []any{}
	for _, key := range keys {
		set = append(set, key.public())
	}
	return []byte(text(object{"keys": set}))
}

// requestClaims returns claims about GET https://orders.example.org/orders/7, signed at
// start.
func requestClaims() object {
	return object{
		"iss": issuer, "aud": audience, "sub": "spiffe://example.org/ns/shop/sa/checkout",
		"iat": start, "exp": start + 30, "jti": "AAAAAAAAAAAAAAAAAAAAAA", "txn": "1f0c",
		"htm": "GET", "htu": "https://orders.example.org/orders/7",
		"client_cert": object{
			"x5t#S256": "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0", "serial": "0a1b",
			"issuer": "CN=Example Issuing CA", "not_before": start - 300, "not_after": start + 86100,
			"sans": object{"uri": []any{"spiffe://example.org/ns/shop/sa/checkout"},
				"dns": []any{}, "email": []any{}, "ip": []any{}},
			"anchor": "v68ffgcPn6jdYpBfFY2nP4ShE2Yk-6_Mk5PI9yh6aes",
		},
		"authn": object{
			"methods": []any{"certificate"}, "trust_domain": "example.org", "revocation": "checked",
			"crl_this_update": start - 3600, "at": start, "resumed": false,
		},
	}
}

// callerClaims returns claims that are bound only to the caller.
func callerClaims() object { return without(requestClaims(), "jti", "txn", "htm", "htu") }

// with returns a copy with these names and values.
func with(from object, namesAndValues ...any) object {
	changed := object{}
	for name, value := range from {
		changed[name] = value
	}
	for i := 0; i < len(namesAndValues); i += 2 {
		changed[namesAndValues[i].(string)] = namesAndValues[i+1]
	}
	return changed
}

// without returns a copy without these names.
func without(from object, names ...string) object {
	changed := with(from)
	for _, name := range names {
		delete(changed, name)
	}
	return changed
}

// request is the request that requestClaims is about.
func request() countersign.Request { return requestTo("GET", host, "/orders/7") }

func requestTo(method, host, target string) countersign.Request {
	return countersign.Request{Method: method, Hosts: []string{host}, Target: target}
}

// testClock is a clock that only tests change.
type testClock struct{ seconds atomic.Int64 }

func newClock() *testClock {
	clock := &testClock{}
	clock.seconds.Store(start)
	return clock
}

func (c *testClock) now() time.Time        { return time.Unix(c.seconds.Load(), 0) }
func (c *testClock) advance(seconds int64) { c.seconds.Add(seconds) }

func (c *testClock) option() countersign.Option { return countersign.WithClock(c.now) }

func newVerifier(t testing.TB, options ...countersign.Option) *countersign.AssertionVerifier {
	t.Helper()
	verifier, err := countersign.NewAssertionVerifier(issuer, audience, options...)
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

// verifierFor returns a verifier with the key and with the clock at start.
func verifierFor(t testing.TB, key *signingKey, options ...countersign.Option) *countersign.AssertionVerifier {
	t.Helper()
	fixed := []countersign.Option{newClock().option(), countersign.WithJWKS(keySet(key))}
	return newVerifier(t, append(fixed, options...)...)
}

// code returns the code of an error, or "" without one.
func code(err error) string {
	var refused *countersign.AssertionRefused
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refused):
		return refused.Code
	default:
		return "another error: " + err.Error()
	}
}

func verifyCode(t testing.TB, verifier *countersign.AssertionVerifier, token string, r countersign.Request) string {
	t.Helper()
	caller, err := verifier.Verify(t.Context(), []string{token}, r)
	if (caller == nil) == (err == nil) {
		t.Fatalf("a caller and an error, or neither: %v %v", caller, err)
	}
	return code(err)
}

func expectCode(t testing.TB, got, want string, about ...any) {
	t.Helper()
	if got != want {
		t.Errorf("got %q, want %q: %v", got, want, about)
	}
}

// skipOrFail skips a test whose tool is missing. It fails if all tools are required.
func skipOrFail(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("COUNTERSIGN_REQUIRE_TOOLS") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func replaceFirst(from, old, replacement string) string {
	return strings.Replace(from, old, replacement, 1)
}
