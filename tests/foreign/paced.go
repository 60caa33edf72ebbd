// A service in h2 by Go's net/http over TLS: the paths of crates/testkit/src/paced.rs.
//
//	paced.go CERTIFICATE KEY
//
// Prints its port as JSON and serves until its standard input ends.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

func serve(w http.ResponseWriter, r *http.Request) {
	flusher := w.(http.Flusher)
	switch r.URL.Path {
	case "/stream":
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, "tick\n"); err != nil {
				return
			}
			flusher.Flush()
			time.Sleep(20 * time.Millisecond)
		}
	case "/slow":
		time.Sleep(1500 * time.Millisecond)
		io.Copy(io.Discard, r.Body)
	case "/burst":
		piece := make([]byte, 40)
		for n := 0; n < 6000; n++ {
			if _, err := w.Write(piece[:10+n%31]); err != nil {
				return
			}
			flusher.Flush()
		}
	default:
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "ok")
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("{\"port\": %d}\n", listener.Addr().(*net.TCPAddr).Port)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.ServeTLS(listener, http.HandlerFunc(serve), os.Args[1], os.Args[2]))
}
