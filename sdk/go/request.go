package countersign

import (
	"io"
	"math"
	"net/http"
	"strings"
)

// Request has the parts of a received request to which assertions are bound.
// Nothing is decoded or normalized: the gateway signs bytes, and the verifier
// compares bytes.
type Request struct {
	// Method is the method as received.
	Method string
	// Hosts has the values of all Host field lines, or the value of :authority. If
	// there is not exactly one, the host is unclear.
	Hosts []string
	// Target is the path and query as received, undecoded: /path?query.
	Target string
	// Body is the whole body. If it is nil, the body is not compared.
	Body []byte
}

// target is a request target that was split at the first question mark.
type target struct {
	path     string
	hasQuery bool
	query    string
}

// splitTarget splits a target in origin form (RFC 9112 section 3.2.1). It refuses
// the other forms. In absolute form, net/http replaces the Host field by the host of
// the target, so that the two cannot be compared.
func splitTarget(text string) (target, bool) {
	if !strings.HasPrefix(text, "/") || strings.Contains(text, "#") {
		return target{}, false
	}
	path, query, hasQuery := strings.Cut(text, "?")
	return target{path, hasQuery, query}, true
}

// onlyHost returns the only host. It is unclear if it has characters that are not
// visible ASCII.
func onlyHost(hosts []string) (string, bool) {
	if len(hosts) != 1 {
		return "", false
	}
	for i := 0; i < len(hosts[0]); i++ {
		if b := hosts[0][i]; (b < ' ' && b != '\t') || b > '~' {
			return "", false
		}
	}
	return hosts[0], true
}

// splitURL returns the authority and path of an htu claim. The scheme is ignored,
// because a service cannot know how its caller reached the gateway.
func splitURL(url string) (authority, path string, ok bool) {
	_, rest, ok := strings.Cut(url, "://")
	if !ok || strings.ContainsAny(rest, "?#") {
		return "", "", false
	}
	slash := strings.IndexByte(rest, '/')
	if slash <= 0 {
		return "", "", false
	}
	return rest[:slash], rest[slash:], true
}

// requestOf takes the parts from a request of net/http, without its body.
func requestOf(r *http.Request) Request {
	request := Request{Method: r.Method, Target: r.RequestURI}
	if r.Host != "" {
		request.Hosts = append(request.Hosts, r.Host)
	}
	// In HTTP/2 a request can have :authority and Host fields. net/http takes
	// :authority and leaves the fields.
	for _, host := range r.Header["Host"] {
		if host != r.Host || len(r.Header["Host"]) > 1 {
			request.Hosts = append(request.Hosts, host)
		}
	}
	return request
}

// readBody reads a body of at most limit bytes.
func readBody(body io.Reader, limit int64) ([]byte, error) {
	if body == nil {
		return []byte{}, nil
	}
	limit = min(limit, math.MaxInt64-1)
	read, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, refuseWith(CodeBodyNotBound, "the request's body could not be read", nil)
	}
	if int64(len(read)) > limit {
		return nil, refuseWith(CodeBodyNotBound, "the request's body is too long to be compared", nil)
	}
	return read, nil
}
