package countersign

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Header is the header field that contains the assertion: exactly one field line
// with one compact JWS.
const Header = "Countersign-Assertion"

// maxLifetime is the maximum time between iat and exp, in seconds.
const maxLifetime = 300

// AssertionVerifier verifies assertions of one gateway for one service. Its methods
// can be called from several goroutines at the same time.
type AssertionVerifier struct {
	issuer   string
	audience string
	options  options
	skew     uint64
	keys     keySource
}

// keySource is the source of the gateway's keys.
type keySource interface {
	// keysFor returns the keys for a token that names keyID. The result need not
	// have this key.
	keysFor(ctx context.Context, keyID string) (*keySet, error)
	// fetchNow fetches the keys, whatever is cached.
	fetchNow(ctx context.Context) error
}

// NewAssertionVerifier makes a verifier. issuer is the URL of the gateway and is
// compared exactly with iss. audience is this service and is compared exactly with
// aud. One of [WithJWKSURL], [WithJWKSFile] and [WithJWKS] is required.
//
// It returns an error if a setting is missing or would weaken verification. Nothing
// is fetched yet.
func NewAssertionVerifier(issuer, audience string, opts ...Option) (*AssertionVerifier, error) {
	o := options{skew: DefaultSkew, maxBody: DefaultMaxBody, now: time.Now}
	for _, option := range opts {
		if option != nil {
			option(&o)
		}
	}
	verifier, err := newVerifier(issuer, audience, o)
	if err != nil {
		return nil, fmt.Errorf("countersign: %w", err)
	}
	return verifier, nil
}

func newVerifier(issuer, audience string, o options) (*AssertionVerifier, error) {
	if issuer == "" {
		return nil, errors.New("no issuer: the gateway's URL is required")
	}
	if audience == "" {
		return nil, errors.New("no audience: the audience of this service is required")
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	v := &AssertionVerifier{
		issuer: issuer, audience: audience, options: o, skew: uint64(o.skew / time.Second),
	}
	keys, err := newKeySource(o, v.now)
	if err != nil {
		return nil, err
	}
	v.keys = keys
	return v, nil
}

// String shows no keys.
func (v *AssertionVerifier) String() string {
	return fmt.Sprintf("AssertionVerifier{issuer: %q, audience: %q}", v.issuer, v.audience)
}

// FetchKeys fetches the keys now. The first request then need not wait, and a service
// can report at its start that its gateway cannot be reached. The verifier stays
// usable after an error and tries again at the next verification.
func (v *AssertionVerifier) FetchKeys(ctx context.Context) error { return v.keys.fetchNow(ctx) }

// Verify verifies the assertion of a request. assertions has the values of all
// Countersign-Assertion field lines. Keys are fetched if they are stale or if the
// token's key is unknown. The error is always an [*AssertionRefused].
//
// It is for frameworks that have no adapter. For net/http use
// [AssertionVerifier.Middleware] or [AssertionVerifier.VerifyRequest].
func (v *AssertionVerifier) Verify(ctx context.Context, assertions []string, request Request) (*Caller, error) {
	return v.verify(ctx, assertions, request, func() ([]byte, error) { return request.Body, nil })
}

// VerifyRequest verifies the assertion of a request of net/http, for handlers that
// need it only on some paths. Unverified paths have no effect. With
// [RequireBodyBinding] it reads the body and replaces r.Body.
func (v *AssertionVerifier) VerifyRequest(r *http.Request) (*Caller, error) {
	return v.verify(r.Context(), r.Header[Header], requestOf(r), func() ([]byte, error) {
		return v.bufferBody(r)
	})
}

// verify applies all rules. The first that is broken decides about the error. body is
// called only if all rules but those about the body and replay are kept.
func (v *AssertionVerifier) verify(
	ctx context.Context, assertions []string, request Request, body func() ([]byte, error),
) (*Caller, error) {
	token, err := onlyAssertion(assertions)
	if err != nil {
		return nil, err
	}
	target, ok := splitTarget(request.Target)
	if !ok {
		return nil, refuse(CodeRequestUnclear)
	}
	jws, err := parseToken(token)
	if err != nil {
		return nil, err
	}
	keys, err := v.keys.keysFor(ctx, jws.keyID)
	if err != nil {
		return nil, err
	}
	claims, caller, err := authenticate(jws, keys)
	if err != nil {
		return nil, err
	}
	if err := v.checkClaims(claims); err != nil {
		return nil, err
	}
	if claims.isRequestBound() {
		if err := v.checkRequest(claims, request, target); err != nil {
			return nil, err
		}
	}
	if err := v.checkBody(claims, body); err != nil {
		return nil, err
	}
	// Checked last, so that a refused assertion does not use up its identifier.
	if err := v.checkReplay(ctx, claims); err != nil {
		return nil, err
	}
	return caller, nil
}

// onlyAssertion returns the only field value. Several assertions in one line are not
// a compact JWS and are refused later.
func onlyAssertion(values []string) (string, error) {
	switch {
	case len(values) == 0:
		return "", refuse(CodeMissing)
	case len(values) > 1:
		return "", refuse(CodeDuplicate)
	}
	for i := 0; i < len(values[0]); i++ {
		if values[0][i] >= 0x80 {
			return "", malformed(errors.New("it is not ASCII"))
		}
	}
	return values[0], nil
}

// authenticate verifies the signature, and returns the claims unchecked.
func authenticate(jws *compactJWS, keys *keySet) (*assertion, *Caller, error) {
	key, err := keys.keyFor(jws)
	if err != nil {
		return nil, nil, err
	}
	if !key.verify(jws) {
		return nil, nil, refuse(CodeSignature)
	}
	return readCaller(jws.payload)
}

func (v *AssertionVerifier) checkClaims(claims *assertion) error {
	if claims.iss != v.issuer {
		return refuse(CodeIssuer)
	}
	if claims.aud != v.audience {
		return refuse(CodeAudience)
	}
	if err := v.checkTime(claims.iat, claims.exp); err != nil {
		return err
	}
	switch {
	case claims.isRequestBound():
		return nil
	case claims.isPartlyBound():
		return refuse(CodePartialBinding)
	case !v.options.allowCallerBinding:
		return refuse(CodeNotRequestBound)
	}
	return nil
}

func (v *AssertionVerifier) checkTime(issuedAt, expiresAt uint64) error {
	if expiresAt <= issuedAt || expiresAt-issuedAt > maxLifetime {
		return refuse(CodeLifetime)
	}
	// The sums cannot overflow: now is at most the largest signed number, and
	// expiresAt is at most 300 s after an issuedAt that is not in the future.
	now := v.now()
	if issuedAt > now+v.skew {
		return refuse(CodeNotYetValid)
	}
	// RFC 7519 section 4.1.4: "on or after" exp is too late.
	if now >= expiresAt+v.skew {
		return refuse(CodeExpired)
	}
	return nil
}

// checkRequest compares the assertion with the request byte by byte.
func (v *AssertionVerifier) checkRequest(claims *assertion, request Request, target target) error {
	authority, path, ok := splitURL(*claims.htu)
	if !ok {
		return refuse(CodeClaims)
	}
	if *claims.htm != request.Method {
		return refuse(CodeMethod)
	}
	expected, ok := onlyHost(request.Hosts)
	if v.options.authority != nil {
		expected, ok = *v.options.authority, true
	}
	if !ok {
		return refuse(CodeRequestUnclear)
	}
	if authority != expected {
		return refuse(CodeAuthority)
	}
	if rest, ok := strings.CutPrefix(path, v.options.pathPrefix); !ok || rest != target.path {
		return refuse(CodePath)
	}
	if (claims.htq != nil) != target.hasQuery {
		return refuse(CodeQuery)
	}
	if claims.htq != nil && !equal(*claims.htq, hash([]byte(target.query))) {
		return refuse(CodeQuery)
	}
	return nil
}

func (v *AssertionVerifier) checkBody(claims *assertion, body func() ([]byte, error)) error {
	if claims.htb == nil {
		if v.options.requireBodyBinding {
			return refuse(CodeBodyNotBound)
		}
		return nil
	}
	read, err := body()
	switch {
	case err != nil:
		return err
	case read != nil && !equal(*claims.htb, hash(read)):
		return refuse(CodeBody)
	case read == nil && v.options.requireBodyBinding:
		return refuse(CodeBodyNotBound)
	}
	return nil
}

// bufferBody reads the body if it has to be compared, and puts it back.
func (v *AssertionVerifier) bufferBody(r *http.Request) ([]byte, error) {
	if !v.options.requireBodyBinding {
		return nil, nil
	}
	body, err := readBody(r.Body, v.options.maxBody)
	if err != nil {
		return nil, err
	}
	r.Body = newBody(body, r.Body)
	return body, nil
}

// isUnverified returns whether the request may pass without an assertion.
func (v *AssertionVerifier) isUnverified(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	target, ok := splitTarget(r.RequestURI)
	return ok && slices.Contains(v.options.unverifiedPaths, target.path)
}

// now returns the time in whole seconds since 1970. A clock before 1970 counts as 0:
// every assertion is then not yet valid.
func (v *AssertionVerifier) now() uint64 {
	return uint64(max(v.options.now().Unix(), 0))
}
