package countersign

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Middleware returns a handler that calls next only for requests with a verified
// assertion, and for unverified paths. The caller is in the context of the request,
// see [CallerFromContext]. Other requests get problem details.
//
// The request target is r.RequestURI, which http.StripPrefix and routers do not
// change. The host is r.Host. Code that runs before the middleware must change
// neither of them.
func (v *AssertionVerifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authenticated, err := v.Authenticate(r)
		if err != nil {
			WriteProblem(w, err)
			return
		}
		next.ServeHTTP(w, authenticated)
	})
}

// Authenticate verifies a request as [AssertionVerifier.Middleware] does, and returns
// it with the caller in its context. It is for adapters of frameworks that are based
// on net/http.
func (v *AssertionVerifier) Authenticate(r *http.Request) (*http.Request, error) {
	if v.isUnverified(r) {
		return withCaller(r, nil), nil
	}
	caller, err := v.VerifyRequest(r)
	if err != nil {
		return nil, err
	}
	return withCaller(r, caller), nil
}

// withCaller returns a request with the caller in its context, and without an upgrade
// to h2c. golang.org/x/net/http2/h2c would take over the connection of such a request:
// later requests on it would not be verified, and would have the context of this one.
// RFC 9110 section 7.8 allows to ignore an upgrade.
func withCaller(r *http.Request, caller *Caller) *http.Request {
	result := r.WithContext(ContextWithCaller(r.Context(), caller))
	for _, value := range r.Header["Upgrade"] {
		if strings.Contains(strings.ToLower(value), "h2c") {
			// The copy of the request shares its header with the original.
			result.Header = r.Header.Clone()
			result.Header.Del("Upgrade")
			result.Header.Del("HTTP2-Settings")
			break
		}
	}
	return result
}

// problem has the members of problem details (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// WriteProblem responds with problem details (RFC 9457) about a refused assertion.
// Another error gets status 500 and no details.
func WriteProblem(w http.ResponseWriter, err error) {
	var refused *AssertionRefused
	if !errors.As(err, &refused) {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	body, err := json.Marshal(problem{
		Type: "about:blank", Title: http.StatusText(refused.Status), Status: refused.Status,
		Code: refused.Code, Detail: refused.Detail,
	})
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/problem+json")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	if refused.Status == http.StatusUnauthorized {
		// RFC 9110 section 15.5.2: a 401 must name a scheme. Only the gateway can
		// satisfy this one.
		header.Set("WWW-Authenticate", "Countersign")
	}
	w.WriteHeader(refused.Status)
	// A client that is gone needs no response.
	_, _ = w.Write(body)
}

// body is a body that was read before.
type body struct {
	*bytes.Reader
	io.Closer
}

// newBody returns a body with these bytes. Closing it closes the received one.
func newBody(read []byte, received io.Closer) io.ReadCloser {
	if received == nil {
		received = http.NoBody
	}
	return body{bytes.NewReader(read), received}
}
