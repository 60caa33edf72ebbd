package countersign

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// connectTimeout is the timeout of connecting to the key server.
	connectTimeout = 2 * time.Second
	// defaultFreshness is how many seconds a response is fresh if it does not say so.
	defaultFreshness = 300
	// minFreshness and maxFreshness are the range of the freshness that a server sets.
	minFreshness = 60
	maxFreshness = 24 * 60 * 60
	// fileFreshness is how many seconds a file is not read again.
	fileFreshness = 60
)

// fetchError is an error that can be shown to callers.
type fetchError string

func (e fetchError) Error() string { return string(e) }

func statusError(status int) error {
	return fetchError("the key server responded with status " + strconv.Itoa(status))
}

// httpLoader fetches a key set over HTTP.
type httpLoader struct {
	url    string
	client *http.Client
}

func newHTTPLoader(address, caFile string) (*httpLoader, error) {
	if !isAllowedAddress(address) {
		return nil, errors.New(
			"keys are fetched over https, or over http from a loopback address only, without user and fragment")
	}
	roots, err := readRoots(caFile)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		// Keys come directly from the gateway, so there is no proxy.
		DialContext:     (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		// Requests are minutes apart, so that it is useless to keep a connection.
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	client := &http.Client{
		Transport: transport,
		// Keys come only from the configured address.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &httpLoader{address, client}, nil
}

func (l *httpLoader) load(ctx context.Context, entityTag string) (loadedKeys, error) {
	read, err := l.get(ctx, entityTag)
	if err != nil && ctx.Err() != nil {
		return loadedKeys{}, errTimedOut
	}
	return read, err
}

func (l *httpLoader) get(ctx context.Context, entityTag string) (loadedKeys, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	if err != nil {
		return loadedKeys{}, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	request.Header.Set("User-Agent", "countersign-go/"+Version)
	if entityTag != "" {
		request.Header.Set("If-None-Match", entityTag)
	}
	response, err := l.client.Do(request)
	if err != nil {
		return loadedKeys{}, err
	}
	defer func() { _ = response.Body.Close() }()
	result := loadedKeys{freshFor: freshness(response.Header)}
	switch {
	case response.StatusCode == http.StatusNotModified && entityTag != "":
		return result, nil
	case response.StatusCode != http.StatusOK:
		return loadedKeys{}, statusError(response.StatusCode)
	}
	result.entityTag = response.Header.Get("ETag")
	if result.keys, err = readKeySet(response.Body); err != nil {
		return loadedKeys{}, err
	}
	return result, nil
}

func readKeySet(from io.Reader) (*keySet, error) {
	text, err := io.ReadAll(io.LimitReader(from, maxKeySet+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeySet {
		return nil, fetchError("the key set is longer than 1 MiB")
	}
	keys, err := parseKeySet(text)
	if err != nil {
		return nil, fetchError("not a key set: " + err.Error())
	}
	return keys, nil
}

// freshness returns the freshness of a response for a private cache in seconds (RFC
// 9111 section 4.2.1), between minFreshness and maxFreshness.
func freshness(header http.Header) uint64 {
	seconds := uint64(defaultFreshness)
	for _, line := range header.Values("Cache-Control") {
		for _, directive := range strings.Split(strings.ToLower(line), ",") {
			directive = strings.TrimSpace(directive)
			if directive == "no-store" || strings.HasPrefix(directive, "no-cache") {
				return minFreshness
			}
			if value, ok := strings.CutPrefix(directive, "max-age="); ok {
				if age, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 64); err == nil {
					seconds = age
				}
			}
		}
	}
	if age, err := strconv.ParseUint(header.Get("Age"), 10, 64); err == nil {
		seconds -= min(age, seconds)
	}
	return min(max(seconds, minFreshness), maxFreshness)
}

// isAllowedAddress returns whether keys may be fetched from this URL.
func isAllowedAddress(address string) bool {
	if strings.Contains(address, "#") {
		return false
	}
	parsed, err := url.Parse(address)
	if err != nil || parsed.Hostname() == "" || parsed.User != nil {
		return false
	}
	return parsed.Scheme == "https" || parsed.Scheme == "http" && isLoopback(parsed.Hostname())
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback() && address.Zone() == ""
}

// readRoots reads the root certificates of a PEM file. Without a file, it returns nil
// for the roots of the system.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("root certificates: %w", err)
	}
	// Some editors write a byte order mark at the start of a file.
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	begun := bytes.Count(text, []byte("-BEGIN "))
	roots := x509.NewCertPool()
	read := 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("root certificates: %s: %w", file, err)
		}
		roots.AddCert(certificate)
		read++
	}
	// The decoder ignores blocks with errors. A missing root would only be noticed as
	// a failed fetch.
	if read == 0 || read != begun {
		return nil, fmt.Errorf("root certificates: %s: of %d PEM blocks %d can be read as certificates",
			file, begun, read)
	}
	return roots, nil
}

// fileLoader reads a key set from a file.
type fileLoader string

func (l fileLoader) load(context.Context, string) (loadedKeys, error) {
	file, err := os.Open(string(l))
	if err != nil {
		return loadedKeys{}, err
	}
	defer func() { _ = file.Close() }()
	keys, err := readKeySet(file)
	if err != nil {
		return loadedKeys{}, err
	}
	return loadedKeys{keys: keys, freshFor: fileFreshness}, nil
}
