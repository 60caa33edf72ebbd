package countersign

import "net/http"

// The codes of [AssertionRefused]. They are stable and equal in the packages of
// all languages.
const (
	// CodeMissing means that the request has no assertion.
	CodeMissing = "assertion-missing"
	// CodeDuplicate means that the request has more than one assertion.
	CodeDuplicate = "assertion-duplicate"
	// CodeMalformed means that the value is not a compact JWS, is longer than
	// [MaxAssertion], or that its JSON is not strict.
	CodeMalformed = "assertion-malformed"
	// CodeType means that typ is not countersign+jwt.
	CodeType = "assertion-type"
	// CodeEmbeddedKey means that the header contains a key or the address of one.
	CodeEmbeddedKey = "assertion-embedded-key"
	// CodeKeyIDMissing means that the header has no kid.
	CodeKeyIDMissing = "assertion-key-id-missing"
	// CodeAlgorithm means that alg is not that of the key, or is not allowed.
	CodeAlgorithm = "assertion-algorithm"
	// CodeUnknownKey means that no published key has this kid.
	CodeUnknownKey = "assertion-unknown-key"
	// CodeKeysUnavailable means that the gateway's keys could not be fetched, and
	// that no cached keys may still be used.
	CodeKeysUnavailable = "assertion-keys-unavailable"
	// CodeSignature means that the signature does not verify.
	CodeSignature = "assertion-signature"
	// CodeClaims means that a claim is missing or of the wrong type.
	CodeClaims = "assertion-claims"
	// CodeIssuer means that iss is not the configured gateway.
	CodeIssuer = "assertion-issuer"
	// CodeAudience means that aud is not this service.
	CodeAudience = "assertion-audience"
	// CodeNotYetValid means that iat is in the future.
	CodeNotYetValid = "assertion-not-yet-valid"
	// CodeExpired means that exp has passed.
	CodeExpired = "assertion-expired"
	// CodeLifetime means that exp is not after iat, or more than 300 s after it.
	CodeLifetime = "assertion-lifetime"
	// CodeNotRequestBound means that the assertion is for any request of its
	// caller, and that the verifier requires one for this request.
	CodeNotRequestBound = "assertion-not-request-bound"
	// CodePartialBinding means that only some of the claims about the request are
	// present.
	CodePartialBinding = "assertion-partial-binding"
	// CodeRequestUnclear means that the target or host of the request cannot be
	// compared with an assertion.
	CodeRequestUnclear = "assertion-request-unclear"
	// CodeMethod means that htm is another method.
	CodeMethod = "assertion-method"
	// CodeAuthority means that htu has another host or port.
	CodeAuthority = "assertion-authority"
	// CodePath means that htu has another path.
	CodePath = "assertion-path"
	// CodeQuery means that htq does not match, is missing, or is present although
	// there is no query.
	CodeQuery = "assertion-query"
	// CodeBody means that htb does not match the body.
	CodeBody = "assertion-body"
	// CodeBodyNotBound means that the verifier requires a bound body, but that htb
	// or the body is missing.
	CodeBodyNotBound = "assertion-body-not-bound"
	// CodeReplayed means that the same jti was accepted before.
	CodeReplayed = "assertion-replayed"
	// CodeReplayCacheFull means that the replay store is full or not available.
	CodeReplayCacheFull = "assertion-replay-cache-full"
)

// AssertionRefused is the error of all verifications. Code is for programs,
// Detail is for people and may change. Code, Status and Detail can be shown to
// the caller: they never contain the token or parts of it.
type AssertionRefused struct {
	// Code is one of the Code constants.
	Code string
	// Status is the HTTP status for a response with this error: 401 if the
	// assertion proves no caller, 403 if it is for something else, and 503 if the
	// verifier cannot decide.
	Status int
	// Detail says in a sentence what is wrong.
	Detail string

	cause error
}

// Error returns the code, the detail and, if there is one, the underlying error.
// The underlying error is for logs: it can contain the address of the key server.
func (e *AssertionRefused) Error() string {
	text := "countersign: " + e.Code + ": " + e.Detail
	if e.cause != nil {
		text += " (" + e.cause.Error() + ")"
	}
	return text
}

// Unwrap returns the underlying error of keys or a replay store that are not
// available. Otherwise it returns nil.
func (e *AssertionRefused) Unwrap() error { return e.cause }

var details = map[string]string{
	CodeMissing:         "the request has no Countersign-Assertion field",
	CodeDuplicate:       "the request has more than one Countersign-Assertion field",
	CodeType:            "the token is not an assertion: its typ is missing or another",
	CodeEmbeddedKey:     "the assertion contains a key or an address of keys in its header",
	CodeKeyIDMissing:    "the assertion names no key",
	CodeAlgorithm:       "the assertion's algorithm is not that of its key",
	CodeUnknownKey:      "the assertion's key is not one of the gateway's keys",
	CodeSignature:       "the assertion's signature does not verify",
	CodeClaims:          "a claim of the assertion is missing or malformed",
	CodeIssuer:          "the assertion is from another issuer",
	CodeAudience:        "the assertion is for another audience",
	CodeNotYetValid:     "the assertion was issued in the future; compare the clocks",
	CodeExpired:         "the assertion has expired",
	CodeLifetime:        "the assertion's lifetime is not between 1 and 300 seconds",
	CodeNotRequestBound: "the assertion is not bound to a request",
	CodePartialBinding:  "the assertion is bound to a request in part only",
	CodeRequestUnclear:  "the request's target or host is unclear",
	CodeMethod:          "the assertion is for another method",
	CodeAuthority:       "the assertion is for another host",
	CodePath:            "the assertion is for another path",
	CodeQuery:           "the assertion is for another query",
	CodeBody:            "the assertion is for another body",
	CodeBodyNotBound:    "the assertion does not bind the request's body",
	CodeReplayed:        "the assertion was used before",
	CodeReplayCacheFull: "too many assertions are remembered; try again later",
}

func refuse(code string) error {
	return &AssertionRefused{Code: code, Status: statusOf(code), Detail: details[code]}
}

func refuseWith(code, detail string, cause error) error {
	return &AssertionRefused{Code: code, Status: statusOf(code), Detail: detail, cause: cause}
}

func statusOf(code string) int {
	switch code {
	case CodeKeysUnavailable, CodeReplayCacheFull:
		return http.StatusServiceUnavailable
	case CodeAudience, CodeNotRequestBound, CodePartialBinding, CodeRequestUnclear, CodeMethod,
		CodeAuthority, CodePath, CodeQuery, CodeBody, CodeBodyNotBound, CodeReplayed:
		return http.StatusForbidden
	default:
		return http.StatusUnauthorized
	}
}
