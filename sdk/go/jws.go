package countersign

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// MaxAssertion is the maximum length of an assertion, in bytes.
const MaxAssertion = 8192

// tokenType is the typ of assertions. It distinguishes them from all other tokens
// that an issuer may sign (RFC 8725 section 3.11).
const tokenType = "countersign+jwt"

// The algorithms of assertions, by their JOSE names.
const (
	algES256 = "ES256"
	algEdDSA = "EdDSA"
	// algEd25519 is the name of EdDSA with an Ed25519 key in RFC 9864.
	algEd25519 = "Ed25519"
)

// compactJWS is a compact JWS (RFC 7515 section 7.1), parsed and not verified.
type compactJWS struct {
	token string
	// algorithm is algES256 or algEdDSA. It is algEdDSA for algEd25519 too.
	algorithm string
	// renamed is true if the header has algEd25519.
	renamed   bool
	keyID     string
	payload   []byte
	signature []byte
}

// signingInput returns the part of the token that is signed.
func (j *compactJWS) signingInput() string {
	return j.token[:strings.LastIndexByte(j.token, '.')]
}

// parseToken checks the form, the type and the key reference: all rules that need
// no cryptography. The JOSE library only gets tokens that pass these checks.
func parseToken(token string) (*compactJWS, error) {
	if len(token) > MaxAssertion {
		return nil, malformed(fmt.Errorf("longer than %d bytes", MaxAssertion))
	}
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 || parts[0] == "" || parts[2] == "" {
		return nil, malformed(errors.New(
			"not a compact JWS: three base64url parts separated by dots are expected"))
	}
	headerText, err := decodeBase64URL(parts[0], "header")
	if err != nil {
		return nil, malformed(err)
	}
	jws := &compactJWS{token: token}
	header, err := jws.readHeader(headerText)
	if err != nil {
		return nil, err
	}
	if jws.payload, err = decodeBase64URL(parts[1], "payload"); err != nil {
		return nil, malformed(err)
	}
	if jws.signature, err = decodeBase64URL(parts[2], "signature"); err != nil {
		return nil, malformed(err)
	}
	return jws, checkHeader(header)
}

// readHeader parses the JOSE header and takes the algorithm and the key identifier.
func (j *compactJWS) readHeader(text []byte) (map[string]any, error) {
	header, err := parseObject(text, "header")
	if err != nil {
		return nil, malformed(err)
	}
	// RFC 7515 section 4.1.11: a token with an unsupported extension must be
	// refused. No extension is supported. b64 (RFC 7797) changes what is signed,
	// even without crit.
	for _, name := range []string{"crit", "b64"} {
		if _, exists := header[name]; exists {
			return nil, malformed(errors.New("the token requires an extension; none is supported"))
		}
	}
	algorithm, ok := header["alg"].(string)
	if !ok {
		return nil, malformed(errors.New("member alg is missing or malformed"))
	}
	switch algorithm {
	case algES256, algEdDSA:
		j.algorithm = algorithm
	case algEd25519:
		j.algorithm, j.renamed = algEdDSA, true
	default:
		return nil, refuse(CodeAlgorithm)
	}
	for _, name := range []string{"kid", "typ"} {
		value, exists := header[name]
		if _, ok := value.(string); exists && !ok {
			return nil, malformed(fmt.Errorf("member %s is missing or malformed", name))
		}
	}
	j.keyID, _ = header["kid"].(string)
	return header, nil
}

func checkHeader(header map[string]any) error {
	if header["typ"] != tokenType {
		return refuse(CodeType)
	}
	// Keys come only from the configured source (RFC 8725 section 3.10).
	for _, name := range []string{"jwk", "jku", "x5u", "x5c"} {
		if _, exists := header[name]; exists {
			return refuse(CodeEmbeddedKey)
		}
	}
	if keyID, _ := header["kid"].(string); keyID == "" {
		return refuse(CodeKeyIDMissing)
	}
	return nil
}

func malformed(reason error) error {
	return refuseWith(CodeMalformed, "the assertion is malformed: "+reason.Error(), nil)
}

// decodeBase64URL decodes the only canonical form: without padding, line breaks and
// trailing bits that are not zero. part names the text in the error.
func decodeBase64URL(text, part string) ([]byte, error) {
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(text)
	// The decoder ignores line breaks.
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("%s is not canonical base64url without padding", part)
	}
	return decoded, nil
}

// hash returns the base64url SHA-256, as in htq and htb.
func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
