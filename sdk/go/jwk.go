package countersign

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

const (
	// maxKeySet is the maximum size of a key set, in bytes.
	maxKeySet = 1 << 20
	// maxKeys is the maximum number of keys in a set.
	maxKeys = 128
)

// keySet has the usable keys of a JWK set.
type keySet struct {
	keys []publicKey
}

// publicKey is a public key that can verify assertions.
type publicKey struct {
	id keyID
	// public is the key for the JOSE library. It is nil if the point is not on its
	// curve: such a key verifies nothing.
	public any
}

// keyID has all that distinguishes a key from others in its set.
type keyID struct {
	hasID bool
	id    string
	// algorithm is algES256 or algEdDSA.
	algorithm string
	x, y      string
}

// parseKeySet parses the JSON text of a JWK set (RFC 7517 section 5). Keys that
// cannot verify assertions are ignored: those with another type, curve, algorithm
// or use, and private, symmetric and malformed ones.
func parseKeySet(text []byte) (*keySet, error) {
	if len(text) > maxKeySet {
		return nil, errors.New("longer than 1 MiB")
	}
	object, err := parseObject(text, "key set")
	if err != nil {
		return nil, err
	}
	items, ok := object["keys"].([]any)
	if !ok {
		return nil, errors.New("member keys is missing or malformed")
	}
	if len(items) > maxKeys {
		return nil, fmt.Errorf("the key set has more than %d keys", maxKeys)
	}
	set := &keySet{}
	for _, item := range items {
		members, ok := item.(map[string]any)
		if !ok {
			return nil, errors.New("member keys is missing or malformed")
		}
		if key, ok := parseKey(members); ok && !set.contains(key) {
			set.keys = append(set.keys, key)
		}
	}
	return set, nil
}

func (s *keySet) contains(key publicKey) bool {
	for _, known := range s.keys {
		if known.id == key.id {
			return true
		}
	}
	return false
}

// has returns whether a key of the set has this identifier.
func (s *keySet) has(keyID string) bool {
	for _, key := range s.keys {
		if key.isNamed(keyID) {
			return true
		}
	}
	return false
}

// keyFor returns the only key for the token.
func (s *keySet) keyFor(jws *compactJWS) (publicKey, error) {
	var fitting []publicKey
	named := false
	for _, key := range s.keys {
		if !key.isNamed(jws.keyID) {
			continue
		}
		named = true
		if key.id.algorithm == jws.algorithm {
			fitting = append(fitting, key)
		}
	}
	switch {
	case len(fitting) == 1:
		return fitting[0], nil
	case named && len(fitting) == 0:
		return publicKey{}, refuse(CodeAlgorithm)
	default:
		return publicKey{}, refuse(CodeUnknownKey)
	}
}

func parseKey(members map[string]any) (publicKey, bool) {
	text := func(name string) (string, bool) {
		value, ok := members[name].(string)
		return value, ok
	}
	absentOrText := func(name string) bool {
		_, exists := members[name]
		_, ok := text(name)
		return ok || !exists
	}
	// k is symmetric, the others are members of private keys (RFC 7518 section 6).
	for _, name := range []string{"k", "d", "p", "q", "dp", "dq", "qi", "oth"} {
		if _, exists := members[name]; exists {
			return publicKey{}, false
		}
	}
	if !absentOrText("use") || !absentOrText("alg") || !absentOrText("kid") {
		return publicKey{}, false
	}
	if use, ok := text("use"); ok && use != "sig" {
		return publicKey{}, false
	}
	if operations, exists := members["key_ops"]; exists && !allowsVerify(operations) {
		return publicKey{}, false
	}
	keyType, _ := text("kty")
	curve, _ := text("crv")
	var key publicKey
	key.id.x, _ = text("x")
	switch {
	case keyType == "EC" && curve == "P-256":
		key.id.algorithm = algES256
		key.id.y, _ = text("y")
		if !is32Bytes(key.id.y) {
			return publicKey{}, false
		}
	case keyType == "OKP" && curve == "Ed25519":
		key.id.algorithm = algEdDSA
	default:
		return publicKey{}, false
	}
	if !is32Bytes(key.id.x) {
		return publicKey{}, false
	}
	switch algorithm, exists := text("alg"); {
	case !exists, algorithm == key.id.algorithm:
	case algorithm == algEd25519 && key.id.algorithm == algEdDSA:
	default:
		return publicKey{}, false
	}
	key.id.id, key.id.hasID = text("kid")
	key.public = key.load()
	return key, true
}

// allowsVerify returns whether key_ops is a list of texts with "verify".
func allowsVerify(operations any) bool {
	list, _ := operations.([]any)
	found := false
	for _, operation := range list {
		name, ok := operation.(string)
		if !ok {
			return false
		}
		found = found || name == "verify"
	}
	return found
}

func is32Bytes(text string) bool {
	decoded, err := decodeBase64URL(text, "key")
	return err == nil && len(decoded) == 32
}

// load lets the JOSE library read the key. It checks that the point is on its curve.
func (k *publicKey) load() any {
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON([]byte(k.canonicalJSON())); err != nil {
		return nil
	}
	return key.Key
}

// isNamed returns whether id names this key: it is the kid of the key, or the
// thumbprint if the key has no kid.
func (k *publicKey) isNamed(id string) bool {
	if k.id.hasID {
		return k.id.id == id
	}
	return hash([]byte(k.canonicalJSON())) == id
}

// canonicalJSON returns the text whose hash is the thumbprint (RFC 7638 section
// 3.2, RFC 8037 section 2).
func (k *publicKey) canonicalJSON() string {
	members := map[string]string{"kty": "OKP", "crv": "Ed25519", "x": k.id.x}
	if k.id.algorithm == algES256 {
		members = map[string]string{"kty": "EC", "crv": "P-256", "x": k.id.x, "y": k.id.y}
	}
	// Members of a map are written in the order of their names, without spaces.
	// Base64url needs no escapes.
	text, err := json.Marshal(members)
	if err != nil {
		return ""
	}
	return string(text)
}

// verify returns whether the signature of the token is one of this key.
func (k *publicKey) verify(jws *compactJWS) bool {
	if k.public == nil || len(jws.signature) != 64 {
		return false
	}
	if key, ok := k.public.(ed25519.PublicKey); ok && jws.renamed {
		// The JOSE library does not know the new name of this algorithm.
		return ed25519.Verify(key, []byte(jws.signingInput()), jws.signature)
	}
	parsed, err := jose.ParseSignedCompact(jws.token, []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA})
	if err != nil {
		return false
	}
	payload, err := parsed.Verify(k.public)
	// The payload that is read later must be the one that was verified.
	return err == nil && string(payload) == string(jws.payload)
}
