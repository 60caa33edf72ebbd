package countersign_test

import (
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// BenchmarkVerify is a verification with a cached key.
func BenchmarkVerify(b *testing.B) {
	for _, key := range []*signingKey{newES256(), newEdDSA()} {
		b.Run(key.algorithm, func(b *testing.B) {
			verifier := verifierFor(b, key)
			assertions := []string{key.assertion(requestClaims())}
			for b.Loop() {
				if _, err := verifier.Verify(b.Context(), assertions, request()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkJOSE is a verification of only the signature by the JOSE library.
func BenchmarkJOSE(b *testing.B) {
	for _, key := range []*signingKey{newES256(), newEdDSA()} {
		b.Run(key.algorithm, func(b *testing.B) {
			token := key.assertion(requestClaims())
			var public jose.JSONWebKey
			if err := public.UnmarshalJSON([]byte(text(key.public()))); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := parsed.Verify(public.Key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
