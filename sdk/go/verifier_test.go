package countersign_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	countersign "github.com/countersign/countersign/sdk/go"
)

// refusal returns the code of a verifier with default rules for these claims.
func refusal(t *testing.T, claims object) string {
	t.Helper()
	key := newEdDSA()
	return verifyCode(t, verifierFor(t, key), key.assertion(claims), request())
}

// headerRefusal returns its code for a correct payload with this header.
func headerRefusal(t *testing.T, key *signingKey, header object) string {
	t.Helper()
	return verifyCode(t, verifierFor(t, key), key.sign(text(header), text(requestClaims())), request())
}

func TestGoodAssertionIsAccepted(t *testing.T) {
	for _, key := range []*signingKey{newES256(), newEdDSA()} {
		caller, err := verifierFor(t, key).Verify(t.Context(), []string{key.assertion(requestClaims())}, request())
		if err != nil {
			t.Fatal(err)
		}
		if caller.Sub != "spiffe://example.org/ns/shop/sa/checkout" || caller.TrustDomain != "example.org" ||
			!caller.RequestBound() || caller.Issuer != issuer || caller.Audience != audience ||
			caller.ID != "AAAAAAAAAAAAAAAAAAAAAA" || caller.Transaction != "1f0c" ||
			caller.ExpiresAt.Unix() != start+30 || caller.IssuedAt.Unix() != start || caller.Token != nil {
			t.Errorf("%+v", caller)
		}
		certificate := caller.Certificate
		if certificate.Serial != "0a1b" || certificate.IssuerTruncated || certificate.NotAfter.Unix() != start+86100 ||
			!slices.Equal(certificate.SANs.URI, []string{caller.Sub}) || certificate.SANsTruncated {
			t.Errorf("%+v", certificate)
		}
		authn := caller.Authn
		if !slices.Equal(authn.Methods, []string{"certificate"}) || authn.Revocation != "checked" ||
			authn.At.Unix() != start || authn.CRLThisUpdate.Unix() != start-3600 || authn.Resumed {
			t.Errorf("%+v", authn)
		}
		if text(caller.Claims) != text(requestClaims()) {
			t.Errorf("%v", text(caller.Claims))
		}
	}
}

func TestOptionalClaimsAreRead(t *testing.T) {
	key := newEdDSA()
	claims := with(requestClaims(), "unknown", object{"a": 1}, "token", object{
		"iss": "https://idp.example.org", "sub": "alice", "client_id": "web", "scope": "orders:read",
		"jti": "7", "ath": "h", "groups": []any{"buyers"}})
	claims["client_cert"] = with(claims["client_cert"].(object),
		"sans_truncated", true, "issuer", "", "issuer_truncated", true)
	caller, err := verifierFor(t, key).Verify(t.Context(), []string{key.assertion(claims)}, request())
	if err != nil {
		t.Fatal(err)
	}
	token := *caller.Token
	token.Claims = nil
	want := countersign.Token{Issuer: "https://idp.example.org", Sub: "alice", ClientID: "web",
		Scope: "orders:read", ID: "7", Hash: "h"}
	if !reflect.DeepEqual(token, want) || !caller.Certificate.SANsTruncated ||
		!caller.Certificate.IssuerTruncated || caller.Certificate.Issuer != "" {
		t.Errorf("%+v", caller)
	}
	if groups := caller.Token.Claims["groups"].([]any); groups[0] != "buyers" {
		t.Errorf("%v", groups)
	}
	// A caller without certificate.
	keyOnly := with(without(requestClaims(), "client_cert"), "sub", "api-key:nightly",
		"authn", object{"methods": []any{"api-key"}, "at": start, "resumed": false})
	caller, err = verifierFor(t, key).Verify(t.Context(), []string{key.assertion(keyOnly)}, request())
	if err != nil || caller.Certificate != nil || caller.TrustDomain != "" || caller.Authn.Revocation != "" ||
		caller.HasCertificate() || caller.CertificateThumbprint() != "" {
		t.Errorf("%+v %v", caller, err)
	}
}

func TestCallersWithCertificateAreRecognizedInCompactAssertions(t *testing.T) {
	key := newES256()
	full := requestClaims()
	thumbprint := full["client_cert"].(object)["x5t#S256"]
	compact := with(without(full, "client_cert"), "authn", with(full["authn"].(object), "x5t#S256", thumbprint))
	withToken := with(compact, "authn",
		with(compact["authn"].(object), "methods", []any{"certificate", "token"}))
	for name, claims := range map[string]object{"full": full, "compact": compact, "with a token": withToken} {
		caller, err := verifierFor(t, key).Verify(t.Context(), []string{key.assertion(claims)}, request())
		if err != nil {
			t.Fatal(err)
		}
		if !caller.HasCertificate() || caller.CertificateThumbprint() != thumbprint ||
			(caller.Certificate != nil) != (name == "full") || caller.TrustDomain != "example.org" {
			t.Errorf("%s: %+v", name, caller)
		}
	}
}

func TestExactlyOneFieldLineIsTaken(t *testing.T) {
	key := newES256()
	verifier := verifierFor(t, key)
	token := key.assertion(requestClaims())
	for _, test := range []struct {
		lines []string
		want  string
	}{
		{nil, countersign.CodeMissing},
		{[]string{}, countersign.CodeMissing},
		{[]string{token}, ""},
		{[]string{token, token}, countersign.CodeDuplicate},
		{[]string{"\xff"}, countersign.CodeMalformed},
		{[]string{token + "," + token}, countersign.CodeMalformed},
		{[]string{token + ", " + token}, countersign.CodeMalformed},
		{[]string{" " + token}, countersign.CodeMalformed},
	} {
		_, err := verifier.Verify(t.Context(), test.lines, request())
		expectCode(t, code(err), test.want, test.lines)
	}
}

func TestFormIsStrict(t *testing.T) {
	key := newES256()
	verifier := verifierFor(t, key)
	token := key.assertion(requestClaims())
	payload := text(requestClaims())
	header := text(key.header())
	parts := strings.Split(token, ".")
	last := parts[2][len(parts[2])-1]
	// The last character of 64 bytes in base64url has four bits that must be zero.
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	trailing := token[:len(token)-1] + string(alphabet[strings.IndexByte(alphabet, last)+1])
	deep := func(levels int) string {
		return replaceFirst(payload, "{", `{"x":`+strings.Repeat("[", levels)+strings.Repeat("]", levels)+",")
	}
	for name, bad := range map[string]string{
		"empty": "", "short": "a.b.c", "dots": "..", "two parts": parts[0] + "." + parts[1],
		"padding": token + "=", "four parts": token + ".", "space": replaceFirst(token, ".", " ."),
		"line break":           parts[0] + "." + parts[1] + "\n." + parts[2],
		"carriage return":      parts[0] + "\r." + parts[1] + "." + parts[2],
		"other alphabet":       parts[0] + "." + parts[1] + "." + "+/" + parts[2][2:],
		"trailing bits":        trailing,
		"no signature":         parts[0] + "." + parts[1] + ".",
		"long":                 key.assertion(with(requestClaims(), "padding", strings.Repeat("x", 8192))),
		"duplicate claim":      key.sign(header, replaceFirst(payload, "{", `{"sub":"spiffe://evil/x",`)),
		"duplicate by escape":  key.sign(header, replaceFirst(payload, "{", `{"\u0073ub":"spiffe://evil/x",`)),
		"nested duplicate":     key.sign(header, replaceFirst(payload, "{", `{"x":[{"a":{"b":1,"b":1}}],`)),
		"array":                key.sign(header, "["+payload+"]"),
		"not json":             key.sign(header, "not json"),
		"no payload":           key.sign(header, ""),
		"trailing data":        key.sign(header, payload+"{}"),
		"trailing comma":       key.sign(header, replaceFirst(payload, "}", ",}")),
		"byte order mark":      key.sign(header, "\xef\xbb\xbf"+payload),
		"not utf-8":            key.sign(header, replaceFirst(payload, "spiffe", "\xff")),
		"overlong utf-8":       key.sign(header, replaceFirst(payload, "spiffe", "\xc0\xaf")),
		"single surrogate":     key.sign(header, replaceFirst(payload, "spiffe", `\ud800`)),
		"reversed surrogates":  key.sign(header, replaceFirst(payload, "spiffe", `\udc00\ud800`)),
		"unpaired surrogate":   key.sign(header, replaceFirst(payload, "spiffe", `\ud800\u0041`)),
		"control character":    key.sign(header, replaceFirst(payload, "spiffe", "\x01")),
		"number out of range":  key.sign(header, replaceFirst(payload, "{", `{"x":1e999,`)),
		"number with zero":     key.sign(header, replaceFirst(payload, "{", `{"x":01,`)),
		"NaN":                  key.sign(header, replaceFirst(payload, "{", `{"x":NaN,`)),
		"too deep":             key.sign(header, deep(127)),
		"crit":                 key.sign(text(with(key.header(), "crit", []any{"exp"})), payload),
		"empty crit":           key.sign(text(with(key.header(), "crit", []any{})), payload),
		"b64":                  key.sign(text(with(key.header(), "b64", true)), payload),
		"alg is no text":       key.sign(text(with(key.header(), "alg", []any{"ES256"})), payload),
		"no alg":               key.sign(text(without(key.header(), "alg")), payload),
		"kid is no text":       key.sign(text(with(key.header(), "kid", 1)), payload),
		"typ is null":          key.sign(text(with(key.header(), "typ", nil)), payload),
		"duplicate alg":        key.sign(replaceFirst(header, "{", `{"\u0061lg":"none",`), payload),
		"header with two ends": key.sign(header+"{}", payload),
	} {
		expectCode(t, verifyCode(t, verifier, bad, request()), countersign.CodeMalformed, name)
	}
	for name, good := range map[string]string{
		"surrogates":     key.sign(header, replaceFirst(payload, "{", `{"x":"\ud83d\ude00 \\ud800",`)),
		"other case":     key.sign(header, replaceFirst(payload, "{", `{"SUB":"spiffe://evil/x","Exp":1,`)),
		"deep":           key.sign(header, deep(126)),
		"big number":     key.sign(header, replaceFirst(payload, "{", `{"x":123456789012345678901234567890,`)),
		"white space":    key.sign(" "+header+"\n", "\t"+payload+"\r\n"),
		"unknown member": key.sign(text(with(key.header(), "cty", 7)), payload),
	} {
		expectCode(t, verifyCode(t, verifier, good, request()), "", name)
	}
	caller, err := verifier.Verify(t.Context(),
		[]string{key.sign(header, replaceFirst(payload, "{", `{"SUB":"spiffe://evil/x",`))}, request())
	if err != nil || caller.Sub != "spiffe://example.org/ns/shop/sa/checkout" {
		t.Errorf("%v %v", caller, err)
	}
}

func TestTypeIsRequired(t *testing.T) {
	key := newES256()
	for _, other := range []string{"JWT", "at+jwt", "Countersign+JWT", "application/countersign+jwt", ""} {
		expectCode(t, headerRefusal(t, key, with(key.header(), "typ", other)), countersign.CodeType, other)
	}
	expectCode(t, headerRefusal(t, key, without(key.header(), "typ")), countersign.CodeType)
	expectCode(t, headerRefusal(t, key, with(without(key.header(), "typ"), "TYP", "countersign+jwt")),
		countersign.CodeType)
}

func TestKeysComeFromTheIssuerOnly(t *testing.T) {
	key, stranger := newES256(), newES256()
	for name, value := range map[string]any{
		"jwk": key.public(), "jku": "https://evil.example/keys", "x5u": "https://evil.example/chain",
		"x5c": []any{},
	} {
		expectCode(t, headerRefusal(t, key, with(key.header(), name, value)), countersign.CodeEmbeddedKey, name)
	}
	expectCode(t, headerRefusal(t, key, without(key.header(), "kid")), countersign.CodeKeyIDMissing)
	expectCode(t, headerRefusal(t, key, with(key.header(), "kid", "")), countersign.CodeKeyIDMissing)
	expectCode(t, headerRefusal(t, key, with(key.header(), "kid", "x")), countersign.CodeUnknownKey)
	verifier := verifierFor(t, key)
	expectCode(t, verifyCode(t, verifier, stranger.assertion(requestClaims()), request()), countersign.CodeUnknownKey)
	// The right key identifier on the wrong signature.
	forged := stranger.sign(text(key.header()), text(requestClaims()))
	expectCode(t, verifyCode(t, verifier, forged, request()), countersign.CodeSignature)
}

func TestAlgorithmIsThatOfTheKey(t *testing.T) {
	key := newES256()
	for _, name := range []string{"none", "HS256", "EdDSA", "Ed25519", "ES384", "RS256", "PS256", "es256"} {
		expectCode(t, headerRefusal(t, key, with(key.header(), "alg", name)), countersign.CodeAlgorithm, name)
	}
	// RFC 9864 renames EdDSA for Ed25519 keys.
	other := newEdDSA()
	expectCode(t, headerRefusal(t, other, with(other.header(), "alg", "Ed25519")), "")
	expectCode(t, headerRefusal(t, other, with(other.header(), "alg", "ES256")), countersign.CodeAlgorithm)
}

func TestAlterationsAreNoticed(t *testing.T) {
	for _, key := range []*signingKey{newES256(), newEdDSA()} {
		verifier := verifierFor(t, key)
		parts := strings.Split(key.assertion(requestClaims()), ".")
		other := encode([]byte(text(with(requestClaims(), "sub", "spiffe://evil/x"))))
		signature, err := base64.RawURLEncoding.DecodeString(parts[2])
		if err != nil {
			t.Fatal(err)
		}
		for name, token := range map[string]string{
			"payload": parts[0] + "." + other + "." + parts[2],
			"short":   parts[0] + "." + parts[1] + "." + encode(signature[:63]),
			"long":    parts[0] + "." + parts[1] + "." + encode(append(slices.Clone(signature), 0)),
			"zero":    parts[0] + "." + parts[1] + "." + encode(make([]byte, 64)),
		} {
			expectCode(t, verifyCode(t, verifier, token, request()), countersign.CodeSignature, name)
		}
	}
	// The new name of the algorithm has a verification of its own.
	key := newEdDSA()
	forged := newEdDSA().sign(text(with(key.header(), "alg", "Ed25519")), text(requestClaims()))
	expectCode(t, verifyCode(t, verifierFor(t, key), forged, request()), countersign.CodeSignature)
}

func TestClaimsAreCompleteAndTyped(t *testing.T) {
	for _, name := range []string{"iss", "aud", "sub", "iat", "exp", "authn"} {
		expectCode(t, refusal(t, without(requestClaims(), name)), countersign.CodeClaims, name)
		expectCode(t, refusal(t, with(requestClaims(), name, nil)), countersign.CodeClaims, name)
	}
	raw := func(number string) json.RawMessage { return json.RawMessage(number) }
	for _, claim := range []struct {
		name  string
		value any
	}{
		{"aud", []any{audience}}, {"iss", []any{issuer}}, {"exp", "1770000030"}, {"iat", -1},
		{"iat", 1.5}, {"iat", raw("1.77e9")}, {"exp", raw("1770000030.0")}, {"iat", raw("-0")},
		{"exp", raw("18446744073709551616")}, {"htm", 7}, {"jti", 7}, {"htq", false}, {"htb", []any{}},
		{"txn", object{}}, {"htu", "orders.example.org/orders/7"}, {"htu", "https://orders.example.org"},
		{"htu", "https:///orders/7"}, {"htu", "https://orders.example.org/orders/7?a"},
		{"htu", "https://orders.example.org/orders/7#a"}, {"client_cert", []any{}}, {"client_cert", "x"},
		{"client_cert", without(requestClaims()["client_cert"].(object), "anchor")},
		{"client_cert", with(requestClaims()["client_cert"].(object), "sans_truncated", nil)},
		{"client_cert", with(requestClaims()["client_cert"].(object), "issuer_truncated", nil)},
		{"client_cert", with(requestClaims()["client_cert"].(object), "issuer_truncated", "true")},
		{"client_cert", with(requestClaims()["client_cert"].(object), "sans", object{"uri": []any{1}})},
		{"authn", with(requestClaims()["authn"].(object), "methods", "certificate")},
		{"authn", with(requestClaims()["authn"].(object), "x5t#S256", 7)},
		{"authn", with(requestClaims()["authn"].(object), "revocation", "unknown")},
		{"authn", with(requestClaims()["authn"].(object), "revocation", "")},
		{"authn", with(requestClaims()["authn"].(object), "at", 1.5)},
		{"authn", without(requestClaims()["authn"].(object), "resumed")},
		{"token", object{"sub": "alice"}}, {"token", object{"iss": "i", "sub": 7}},
	} {
		expectCode(t, refusal(t, with(requestClaims(), claim.name, claim.value)), countersign.CodeClaims, claim)
	}
	// Null is the same as absent.
	for _, name := range []string{"htq", "htb", "txn", "client_cert", "token"} {
		expectCode(t, refusal(t, with(requestClaims(), name, nil)), "", name)
	}
	expectCode(t, refusal(t, with(requestClaims(), "jti", nil)), countersign.CodePartialBinding)
}

func TestIssuerAndAudienceAreExact(t *testing.T) {
	for _, other := range []string{issuer + "/", "https://GATEWAY.example.org:9080", ""} {
		expectCode(t, refusal(t, with(requestClaims(), "iss", other)), countersign.CodeIssuer, other)
	}
	for _, other := range []string{"Orders", "orders ", "payments", ""} {
		expectCode(t, refusal(t, with(requestClaims(), "aud", other)), countersign.CodeAudience, other)
	}
}

func TestTimeIsCheckedWithABoundedSkew(t *testing.T) {
	key, clock := newEdDSA(), newClock()
	verifier := verifierFor(t, key, clock.option(), countersign.WithSkew(5*time.Second))
	token := key.assertion(requestClaims())
	verify := func(token string) string { return verifyCode(t, verifier, token, request()) }
	expectCode(t, verify(token), "")
	clock.advance(30 + 5 - 1)
	expectCode(t, verify(token), "")
	// Exclusive: at exp (plus skew) the assertion has expired.
	clock.advance(1)
	expectCode(t, verify(token), countersign.CodeExpired)
	now := clock.now().Unix()
	at := func(issued, expires any) string {
		return key.assertion(with(requestClaims(), "iat", issued, "exp", expires))
	}
	expectCode(t, verify(at(now+5, now+30)), "")
	expectCode(t, verify(at(now+6, now+30)), countersign.CodeNotYetValid)
	expectCode(t, verify(at(now, now+300)), "")
	for _, expires := range []any{now + 301, now, now - 1, uint64(math.MaxUint64)} {
		expectCode(t, verify(at(now, expires)), countersign.CodeLifetime, expires)
	}
	expectCode(t, verify(at(uint64(math.MaxUint64-100), uint64(math.MaxUint64))), countersign.CodeNotYetValid)
}

func TestClocksOffBy29And31Seconds(t *testing.T) {
	key, clock := newEdDSA(), newClock()
	verifier := verifierFor(t, key, clock.option(), countersign.WithSkew(30*time.Second))
	for offset, want := range map[int64]string{
		29: "", -29: "", 31: countersign.CodeNotYetValid, -61: countersign.CodeExpired, -59: "",
	} {
		now := start + offset
		token := key.assertion(with(requestClaims(), "iat", now, "exp", now+30))
		expectCode(t, verifyCode(t, verifier, token, request()), want, offset)
	}
	// By default the skew is 10 s.
	verifier = verifierFor(t, key)
	for offset, want := range map[int64]string{10: "", 11: countersign.CodeNotYetValid, -39: "", -40: countersign.CodeExpired} {
		now := start + offset
		token := key.assertion(with(requestClaims(), "iat", now, "exp", now+30))
		expectCode(t, verifyCode(t, verifier, token, request()), want, offset)
	}
	// Without skew.
	verifier = verifierFor(t, key, countersign.WithSkew(0))
	token := key.assertion(with(requestClaims(), "iat", start+1, "exp", start+30))
	expectCode(t, verifyCode(t, verifier, token, request()), countersign.CodeNotYetValid)
}

func TestRequestIsBound(t *testing.T) {
	key := newEdDSA()
	verifier := verifierFor(t, key)
	token := key.assertion(requestClaims())
	verify := func(method, host, target string) string {
		return verifyCode(t, verifier, token, requestTo(method, host, target))
	}
	expectCode(t, verify("GET", host, "/orders/7"), "")
	for _, method := range []string{"POST", "get", "HEAD", ""} {
		expectCode(t, verify(method, host, "/orders/7"), countersign.CodeMethod, method)
	}
	for _, other := range []string{"Orders.example.org", host + ":443", host + ".", "payments.example.org", ""} {
		expectCode(t, verify("GET", other, "/orders/7"), countersign.CodeAuthority, other)
	}
	for _, path := range []string{"/orders/8", "/orders/7/", "/orders/%37", "//orders/7", "/orders/./7", "/Orders/7", "/"} {
		expectCode(t, verify("GET", host, path), countersign.CodePath, path)
	}
	for _, target := range []string{"/orders/7?", "/orders/7?a=1"} {
		expectCode(t, verify("GET", host, target), countersign.CodeQuery, target)
	}
	for _, target := range []string{"", "*", "orders", "https://orders.example.org/orders/7", "/orders/7#b", "?a"} {
		expectCode(t, verify("GET", host, target), countersign.CodeRequestUnclear, target)
	}
	for _, hosts := range [][]string{nil, {host, host}, {host, "evil.example"}, {"orders.example.org\xff"}, {"\x00"}} {
		r := countersign.Request{Method: "GET", Hosts: hosts, Target: "/orders/7"}
		expectCode(t, verifyCode(t, verifier, token, r), countersign.CodeRequestUnclear, hosts)
	}
	// The method is compared before the host.
	r := countersign.Request{Method: "PUT", Target: "/orders/7"}
	expectCode(t, verifyCode(t, verifier, token, r), countersign.CodeMethod)
	// The scheme has no meaning.
	plain := key.assertion(with(requestClaims(), "htu", "http://orders.example.org/orders/7"))
	expectCode(t, verifyCode(t, verifier, plain, request()), "")
}

func TestQueryIsBound(t *testing.T) {
	key := newEdDSA()
	verifier := verifierFor(t, key)
	verify := func(query, target string) string {
		token := key.assertion(with(requestClaims(), "htq", hash(query)))
		return verifyCode(t, verifier, token, requestTo("GET", host, target))
	}
	expectCode(t, verify("a=1&b=%20", "/orders/7?a=1&b=%20"), "")
	expectCode(t, verify("a?b", "/orders/7?a?b"), "")
	expectCode(t, verify("", "/orders/7?"), "")
	expectCode(t, verify("", "/orders/7"), countersign.CodeQuery)
	for _, target := range []string{
		"/orders/7", "/orders/7?", "/orders/7?a=1&b=+", "/orders/7?b=%20&a=1", "/orders/7?a=1&b=%20&",
	} {
		expectCode(t, verify("a=1&b=%20", target), countersign.CodeQuery, target)
	}
}

func TestBodyIsBoundIfBothSidesSaySo(t *testing.T) {
	key := newEdDSA()
	bound := key.assertion(with(requestClaims(), "htb", hash("one")))
	unbound := key.assertion(requestClaims())
	body := func(text string) countersign.Request {
		r := request()
		r.Body = []byte(text)
		return r
	}
	lenient := verifierFor(t, key)
	expectCode(t, verifyCode(t, lenient, bound, body("one")), "")
	expectCode(t, verifyCode(t, lenient, bound, body("two")), countersign.CodeBody)
	expectCode(t, verifyCode(t, lenient, bound, body("")), countersign.CodeBody)
	expectCode(t, verifyCode(t, lenient, unbound, body("two")), "")
	unread, err := lenient.Verify(t.Context(), []string{bound}, request())
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"one": true, "two": false} {
		if matches, isBound := unread.MatchesBody([]byte(text)); matches != want || !isBound {
			t.Errorf("%q: %v %v", text, matches, isBound)
		}
	}
	none, err := lenient.Verify(t.Context(), []string{unbound}, request())
	if err != nil {
		t.Fatal(err)
	}
	if matches, isBound := none.MatchesBody([]byte("one")); matches || isBound {
		t.Error("an assertion without htb matches a body")
	}
	strict := verifierFor(t, key, countersign.RequireBodyBinding())
	expectCode(t, verifyCode(t, strict, bound, body("one")), "")
	expectCode(t, verifyCode(t, strict, unbound, body("one")), countersign.CodeBodyNotBound)
	expectCode(t, verifyCode(t, strict, bound, request()), countersign.CodeBodyNotBound)
	expectCode(t, verifyCode(t, strict, unbound, request()), countersign.CodeBodyNotBound)
}

func TestBindingToTheCallerAloneIsOptIn(t *testing.T) {
	key := newEdDSA()
	token := key.assertion(callerClaims())
	expectCode(t, verifyCode(t, verifierFor(t, key), token, request()), countersign.CodeNotRequestBound)
	open := verifierFor(t, key, countersign.AllowCallerBinding())
	caller, err := open.Verify(t.Context(), []string{token}, request())
	if err != nil || caller.RequestBound() {
		t.Fatal(caller, err)
	}
	// Bound assertions are still compared.
	expectCode(t, verifyCode(t, open, key.assertion(with(requestClaims(), "htm", "PUT")), request()), countersign.CodeMethod)
	for _, name := range []string{"htm", "htu", "jti"} {
		claims := without(requestClaims(), name)
		expectCode(t, refusal(t, claims), countersign.CodePartialBinding, name)
		expectCode(t, verifyCode(t, open, key.assertion(claims), request()), countersign.CodePartialBinding, name)
	}
	for _, name := range []string{"htm", "htu", "htq", "htb", "jti", "txn"} {
		token := key.assertion(with(callerClaims(), name, "x"))
		expectCode(t, verifyCode(t, open, token, request()), countersign.CodePartialBinding, name)
	}
}

func TestAuthorityAndPrefixCanBeConfigured(t *testing.T) {
	key := newEdDSA()
	verifier := verifierFor(t, key, countersign.WithAuthority(host), countersign.WithPathPrefix("/orders"))
	token := key.assertion(requestClaims())
	expectCode(t, verifyCode(t, verifier, token, requestTo("GET", "10.0.0.7:8080", "/7")), "")
	expectCode(t, verifyCode(t, verifier, token, requestTo("GET", "10.0.0.7:8080", "/orders/7")), countersign.CodePath)
	expectCode(t, verifyCode(t, verifier, token, countersign.Request{Method: "GET", Target: "/7"}), "")
	elsewhere := key.assertion(with(requestClaims(), "htu", "https://10.0.0.7:8080/orders/7"))
	expectCode(t, verifyCode(t, verifier, elsewhere, requestTo("GET", "10.0.0.7:8080", "/7")), countersign.CodeAuthority)
	for path, want := range map[string]string{
		"/ordersX/7": countersign.CodePath, "/7": countersign.CodePath, "/orders": countersign.CodePath,
	} {
		other := key.assertion(with(requestClaims(), "htu", "https://"+host+path))
		expectCode(t, verifyCode(t, verifier, other, requestTo("GET", host, "/7")), want, path)
	}
}

func TestKeysOfASet(t *testing.T) {
	key, other := newES256(), newEdDSA()
	set := func(keys ...any) []byte { return []byte(text(object{"keys": keys})) }
	token := key.assertion(requestClaims())
	offCurve := with(key.public(), "y", key.public()["x"])
	for name, test := range map[string]struct {
		keys []byte
		want string
	}{
		"thumbprint instead of kid": {set(key.jwk()), ""},
		"twice":                     {set(key.public(), key.public()), ""},
		"ambiguous":                 {set(key.public(), with(newES256().public(), "kid", key.kid())), countersign.CodeUnknownKey},
		"another algorithm":         {set(with(other.public(), "kid", key.kid())), countersign.CodeAlgorithm},
		"and another algorithm":     {set(key.public(), with(other.public(), "kid", key.kid())), ""},
		"not on the curve":          {set(offCurve), countersign.CodeSignature},
		"others are ignored": {set(key.public(), object{"kty": "RSA", "n": "AQAB", "e": "AQAB"},
			object{"kty": "oct", "k": "AAAA"}, object{}, with(key.public(), "d", "AAAA")), ""},
	} {
		verifier := newVerifier(t, newClock().option(), countersign.WithJWKS(test.keys))
		expectCode(t, verifyCode(t, verifier, token, request()), test.want, name)
	}
	for name, unusable := range map[string]object{
		"private": with(key.public(), "d", "AAAA"), "symmetric": {"kty": "oct", "k": "AAAA"},
		"encryption": with(key.public(), "use", "enc"), "sign": with(key.public(), "key_ops", []any{"sign"}),
		"key_ops":       with(key.public(), "key_ops", "verify"),
		"other alg":     with(key.public(), "alg", "ES384"),
		"short":         with(key.public(), "x", "AAAA"),
		"no y":          without(key.public(), "y"),
		"kid":           with(key.public(), "kid", 1),
		"Ed448":         with(other.public(), "crv", "Ed448"),
		"wrong key alg": with(other.public(), "alg", "ES256"),
	} {
		_, err := countersign.NewAssertionVerifier(issuer, audience, countersign.WithJWKS(set(unusable)))
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for name, usable := range map[string]object{
		"verify": with(key.public(), "key_ops", []any{"sign", "verify"}), "no use": without(key.public(), "use"),
		"Ed25519": with(other.public(), "alg", "Ed25519"),
	} {
		if _, err := countersign.NewAssertionVerifier(issuer, audience, countersign.WithJWKS(set(usable))); err != nil {
			t.Error(name, err)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	key := newES256()
	keys := countersign.WithJWKS(keySet(key))
	if _, err := countersign.NewAssertionVerifier(issuer, audience, keys, nil); err != nil {
		t.Error(err)
	}
	directory := t.TempDir()
	empty := filepath.Join(directory, "empty.pem")
	if err := os.WriteFile(empty, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := countersign.WithJWKSURL("https://gateway.example.org/.well-known/jwks.json")
	for name, test := range map[string]struct {
		issuer, audience string
		options          []countersign.Option
	}{
		"no issuer":        {"", audience, []countersign.Option{keys}},
		"no audience":      {issuer, "", []countersign.Option{keys}},
		"no keys":          {issuer, audience, nil},
		"two sources":      {issuer, audience, []countersign.Option{keys, url}},
		"html":             {issuer, audience, []countersign.Option{countersign.WithJWKS([]byte("<html>"))}},
		"no text":          {issuer, audience, []countersign.Option{countersign.WithJWKS(nil)}},
		"empty set":        {issuer, audience, []countersign.Option{countersign.WithJWKS([]byte(`{"keys":[]}`))}},
		"missing file":     {issuer, audience, []countersign.Option{countersign.WithJWKSFile(filepath.Join(directory, "none"))}},
		"skew":             {issuer, audience, []countersign.Option{keys, countersign.WithSkew(30*time.Second + 1)}},
		"negative skew":    {issuer, audience, []countersign.Option{keys, countersign.WithSkew(-1)}},
		"authority":        {issuer, audience, []countersign.Option{keys, countersign.WithAuthority("https://h")}},
		"empty authority":  {issuer, audience, []countersign.Option{keys, countersign.WithAuthority("")}},
		"prefix":           {issuer, audience, []countersign.Option{keys, countersign.WithPathPrefix("api")}},
		"prefix end":       {issuer, audience, []countersign.Option{keys, countersign.WithPathPrefix("/api/")}},
		"replay":           {issuer, audience, []countersign.Option{keys, countersign.WithReplayStore(countersign.NewMemoryReplayStore(0))}},
		"unverified":       {issuer, audience, []countersign.Option{keys, countersign.WithUnverifiedPaths("health")}},
		"unverified query": {issuer, audience, []countersign.Option{keys, countersign.WithUnverifiedPaths("/health?x")}},
		"clock":            {issuer, audience, []countersign.Option{keys, countersign.WithClock(nil)}},
		"body":             {issuer, audience, []countersign.Option{keys, countersign.WithMaxBody(-1)}},
		"http":             {issuer, audience, []countersign.Option{countersign.WithJWKSURL("http://gateway.example.org/keys")}},
		"user":             {issuer, audience, []countersign.Option{countersign.WithJWKSURL("https://u@gateway.example.org/keys")}},
		"fragment":         {issuer, audience, []countersign.Option{countersign.WithJWKSURL("https://gateway.example.org/keys#a")}},
		"relative":         {issuer, audience, []countersign.Option{countersign.WithJWKSURL("/keys")}},
		"loopback name":    {issuer, audience, []countersign.Option{countersign.WithJWKSURL("http://localhost.example.org/keys")}},
		"file url":         {issuer, audience, []countersign.Option{countersign.WithJWKSURL("file:///keys")}},
		"missing ca":       {issuer, audience, []countersign.Option{url, countersign.WithCAFile(filepath.Join(directory, "none"))}},
		"bad ca":           {issuer, audience, []countersign.Option{url, countersign.WithCAFile(empty)}},
		"ca without url":   {issuer, audience, []countersign.Option{keys, countersign.WithCAFile(empty)}},
	} {
		verifier, err := countersign.NewAssertionVerifier(test.issuer, test.audience, test.options...)
		if err == nil || verifier != nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for _, address := range []string{
		"http://127.0.0.1:9080/keys", "http://[::1]/keys", "http://localhost:1/keys", "https://g.example/keys",
	} {
		if _, err := countersign.NewAssertionVerifier(issuer, audience, countersign.WithJWKSURL(address)); err != nil {
			t.Error(address, err)
		}
	}
}

func TestErrorsNeverShowTheToken(t *testing.T) {
	key := newES256()
	token := key.assertion(with(requestClaims(), "aud", "secret-audience"))
	verifier := verifierFor(t, key)
	_, err := verifier.Verify(t.Context(), []string{token}, requestTo("GET", host, "/?code=secret-audience"))
	shown := fmt.Sprintf("%v %+v %v", err, err, verifier)
	if strings.Contains(shown, "secret-audience") || strings.Contains(shown, "eyJ") {
		t.Error(shown)
	}
}

func TestContextHasACallerOnlyIfThereIsOne(t *testing.T) {
	if caller, ok := countersign.CallerFromContext(context.Background()); ok || caller != nil {
		t.Error(caller)
	}
	ctx := countersign.ContextWithCaller(t.Context(), &countersign.Caller{Sub: "a"})
	if caller, ok := countersign.CallerFromContext(ctx); !ok || caller.Sub != "a" {
		t.Error(caller)
	}
	if caller, ok := countersign.CallerFromContext(countersign.ContextWithCaller(ctx, nil)); ok || caller != nil {
		t.Error(caller)
	}
}

func FuzzVerify(f *testing.F) {
	key := newEdDSA()
	f.Add(key.assertion(requestClaims()))
	f.Add("eyJ.e30.AA")
	verifier := verifierFor(f, key)
	f.Fuzz(func(t *testing.T, token string) {
		caller, err := verifier.Verify(t.Context(), []string{token}, request())
		if (caller == nil) == (err == nil) {
			t.Error(caller, err)
		}
	})
}
