package countersign

import (
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// assertion has the claims of an assertion that are compared. Optional claims are
// nil if they are absent or null.
type assertion struct {
	iss, aud, sub                string
	iat, exp                     uint64
	jti, txn, htm, htu, htq, htb *string
}

// reader reads members of an object and remembers whether one was missing or of
// the wrong type.
type reader struct {
	members map[string]any
	failed  *bool
}

func (r reader) fail() { *r.failed = true }

func (r reader) text(name string) string {
	value, ok := r.members[name].(string)
	if !ok {
		r.fail()
	}
	return value
}

func (r reader) optionalText(name string) *string {
	if r.members[name] == nil {
		return nil
	}
	value := r.text(name)
	return &value
}

// textOrEmpty reads an optional text of which the absence is the empty text.
func (r reader) textOrEmpty(name string) string {
	if value := r.optionalText(name); value != nil {
		return *value
	}
	return ""
}

// whole reads a whole number without sign, fraction and exponent.
func (r reader) whole(name string) uint64 {
	number, _ := r.members[name].(json.Number)
	value, err := strconv.ParseUint(number.String(), 10, 64)
	if err != nil {
		r.fail()
	}
	return value
}

func (r reader) time(name string) time.Time { return unixTime(r.whole(name)) }

func (r reader) bool(name string) bool {
	value, ok := r.members[name].(bool)
	if !ok {
		r.fail()
	}
	return value
}

// flag reads a boolean of which the absence is false. Null fails.
func (r reader) flag(name string) bool {
	_, exists := r.members[name]
	return exists && r.bool(name)
}

func (r reader) object(name string) reader {
	value, ok := r.members[name].(map[string]any)
	if !ok {
		r.fail()
	}
	return reader{value, r.failed}
}

func (r reader) texts(name string) []string {
	list, ok := r.members[name].([]any)
	if !ok {
		r.fail()
	}
	texts := make([]string, 0, len(list))
	for _, item := range list {
		text, ok := item.(string)
		if !ok {
			r.fail()
		}
		texts = append(texts, text)
	}
	return texts
}

func (r reader) optionalTexts(name string) []string {
	if _, exists := r.members[name]; !exists {
		return []string{}
	}
	return r.texts(name)
}

// readCaller reads the claims of a payload whose signature was verified.
func readCaller(payload []byte) (*assertion, *Caller, error) {
	members, err := parseObject(payload, "payload")
	if err != nil {
		return nil, nil, malformed(err)
	}
	failed := false
	claims := reader{members, &failed}
	a := &assertion{
		iss: claims.text("iss"), aud: claims.text("aud"), sub: claims.text("sub"),
		iat: claims.whole("iat"), exp: claims.whole("exp"),
		jti: claims.optionalText("jti"), txn: claims.optionalText("txn"),
		htm: claims.optionalText("htm"), htu: claims.optionalText("htu"),
		htq: claims.optionalText("htq"), htb: claims.optionalText("htb"),
	}
	caller := &Caller{
		Sub: a.sub, Issuer: a.iss, Audience: a.aud,
		IssuedAt: unixTime(a.iat), ExpiresAt: unixTime(a.exp),
		ID: claims.textOrEmpty("jti"), Transaction: claims.textOrEmpty("txn"),
		Claims: members, requestBound: a.isRequestBound(), bodyHash: a.htb,
	}
	readAuthn(claims.object("authn"), caller)
	if members["client_cert"] != nil {
		caller.Certificate = readCertificate(claims.object("client_cert"))
	}
	if members["token"] != nil {
		caller.Token = readToken(claims.object("token"))
	}
	if failed {
		return nil, nil, refuse(CodeClaims)
	}
	return a, caller, nil
}

func readAuthn(authn reader, caller *Caller) {
	caller.TrustDomain = authn.textOrEmpty("trust_domain")
	caller.Authn = Authn{
		Methods:    authn.texts("methods"),
		Thumbprint: authn.textOrEmpty("x5t#S256"),
		Revocation: authn.textOrEmpty("revocation"),
		At:         authn.time("at"),
		Resumed:    authn.bool("resumed"),
	}
	if authn.members["revocation"] != nil {
		switch caller.Authn.Revocation {
		case "checked", "soft", "off":
		default:
			authn.fail()
		}
	}
	if authn.members["crl_this_update"] != nil {
		caller.Authn.CRLThisUpdate = authn.time("crl_this_update")
	}
}

func readCertificate(certificate reader) *Certificate {
	names := certificate.object("sans")
	return &Certificate{
		Thumbprint: certificate.text("x5t#S256"),
		Serial:     certificate.text("serial"),
		Issuer:     certificate.text("issuer"),
		NotBefore:  certificate.time("not_before"),
		NotAfter:   certificate.time("not_after"),
		SANs: SANs{
			URI: names.optionalTexts("uri"), DNS: names.optionalTexts("dns"),
			Email: names.optionalTexts("email"), IP: names.optionalTexts("ip"),
		},
		Anchor:          certificate.text("anchor"),
		SANsTruncated:   certificate.flag("sans_truncated"),
		IssuerTruncated: certificate.flag("issuer_truncated"),
	}
}

func readToken(token reader) *Token {
	return &Token{
		Issuer:   token.text("iss"),
		Sub:      token.textOrEmpty("sub"),
		ClientID: token.textOrEmpty("client_id"),
		Scope:    token.textOrEmpty("scope"),
		ID:       token.textOrEmpty("jti"),
		Hash:     token.textOrEmpty("ath"),
		Claims:   token.members,
	}
}

// isRequestBound returns whether the assertion is for one request.
func (a *assertion) isRequestBound() bool {
	return a.htm != nil && a.htu != nil && a.jti != nil
}

// isPartlyBound returns whether a claim about a request is present.
func (a *assertion) isPartlyBound() bool {
	for _, claim := range []*string{a.htm, a.htu, a.jti, a.htq, a.htb, a.txn} {
		if claim != nil {
			return true
		}
	}
	return false
}

// unixTime converts seconds since 1970. Times that do not fit are the last that does.
func unixTime(seconds uint64) time.Time {
	const last = math.MaxInt64 / 2
	return time.Unix(int64(min(seconds, last)), 0).UTC()
}
