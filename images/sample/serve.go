package main

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// Shorter than the 30 s a Pod has by default between SIGTERM and SIGKILL.
const drainTimeout = 10 * time.Second

// What goes in is escaped by the caller: html/template would double the size of the image.
const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>terrarium</title>
<style>
body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 34rem; margin: 15vh auto; padding: 0 1rem; color: #1d3b2a; background: #f4f8f1 }
dt { float: left; clear: left; width: 6rem; color: #5b7a66 }
</style>
</head>
<body>
<h1>terrarium</h1>
<p>It grows: this page comes from a Pod of a real Kubernetes, inside a gVisor sandbox.</p>
<dl>
<dt>Pod</dt><dd>%s</dd>
<dt>Address</dt><dd>%s</dd>
<dt>Time</dt><dd>%s</dd>
</dl>
</body>
</html>
`

// serve answers HTTP on address until SIGTERM or SIGINT; requests under way are finished first.
func serve(address string) error {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds | log.LUTC)
	log.SetOutput(os.Stdout)

	// Notified before listening: whoever finds the port open may already send SIGTERM.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	log.Printf("listening on %s", listener.Addr())

	if err := answerDatagrams(listener.Addr()); err != nil {
		return err
	}
	server := &http.Server{Handler: logged(newApp()), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Print("stopping")
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	return server.Shutdown(drain)
}

// answerDatagrams answers on the same port of UDP for as long as the program lives.
func answerDatagrams(address net.Addr) error {
	socket, err := net.ListenPacket("udp", address.String())
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	go func() {
		datagram := make([]byte, 1)
		for {
			if _, sender, err := socket.ReadFrom(datagram); err == nil {
				socket.WriteTo([]byte(host), sender)
			} else if errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}()
	return nil
}

func newApp() http.Handler {
	var broken atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		host, _ := os.Hostname()
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, page, html.EscapeString(host), html.EscapeString(localAddress(r)), time.Now().UTC().Format(time.RFC3339))
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("POST /break", func(w http.ResponseWriter, _ *http.Request) {
		broken.Store(true)
		io.WriteString(w, "broken\n")
	})
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, environment()) })
	return mux
}

// localAddress is POD_IP where the manifest gives it, else the address on which this request came in: through
// `kubectl port-forward` that is 127.0.0.1.
func localAddress(r *http.Request) string {
	if ip := os.Getenv("POD_IP"); ip != "" {
		return ip
	}
	address, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if tcp, ok := address.(*net.TCPAddr); ok {
		return tcp.IP.String()
	}
	return "unknown"
}

// statusRecorder remembers the status for the log.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(recorder, r)
		log.Printf("%s %s %s %d %s", r.RemoteAddr, r.Method, r.URL.Path, recorder.status, time.Since(start).Round(time.Microsecond))
	})
}
