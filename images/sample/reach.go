package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// One try takes no longer; what is slower than that is tried again.
const tryTimeout = 2 * time.Second

// reachCommand tries all targets at once and tells of each in a line: `ok`, tab, name, tab, how long it took; or
// `failed`, tab, name, tab, why. What fails is tried again for as long as it may take: rules and endpoints arrive in
// their own time.
func reachCommand(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("reach", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	within := flags.Duration("within", 0, "try again for so long")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if flags.NArg() == 0 {
		return fmt.Errorf("%w: reach needs a target", errUsage)
	}
	targets := make([]target, flags.NArg())
	for i, arg := range flags.Args() {
		var err error
		if targets[i], err = parseTarget(arg); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
	}
	lines, failed := make([]string, len(targets)), make([]bool, len(targets))
	var all sync.WaitGroup
	all.Add(len(targets))
	for i, target := range targets {
		go func() {
			defer all.Done()
			lines[i], failed[i] = target.reach(*within)
		}()
	}
	all.Wait()
	var err error
	for i, line := range lines {
		fmt.Fprintln(out, line)
		if failed[i] {
			err = exitCode(1)
		}
	}
	return err
}

type target struct {
	name string
	url  *url.URL
}

// parseTarget reads [NAME=]URL.
func parseTarget(text string) (target, error) {
	name, address, named := strings.Cut(text, "=")
	if !named {
		name, address = text, text
	}
	parsed, err := url.Parse(address)
	if err != nil {
		return target{}, err
	}
	switch parsed.Scheme {
	case "http", "tcp", "udp", "dns", "dns+tcp":
		return target{name, parsed}, nil
	}
	return target{}, fmt.Errorf("%q is no http, tcp, udp, dns or dns+tcp URL", address)
}

func (t target) reach(within time.Duration) (line string, failed bool) {
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		begin := time.Now()
		err := t.try()
		if err == nil {
			return fmt.Sprintf("ok\t%s\t%s", t.name, time.Since(begin).Round(100*time.Microsecond)), false
		}
		if time.Since(start) > within {
			return fmt.Sprintf("failed\t%s\t%s", t.name, strings.ReplaceAll(err.Error(), "\n", " ")), true
		}
	}
}

func (t target) try() error {
	ctx, cancel := context.WithTimeout(context.Background(), tryTimeout)
	defer cancel()
	switch t.url.Scheme {
	case "http":
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url.String(), nil)
		if err != nil {
			return err
		}
		// Each try is a connection of its own.
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode >= 400 {
			return errors.New(response.Status)
		}
		_, err = io.Copy(io.Discard, response.Body)
		return err
	case "tcp":
		connection, err := new(net.Dialer).DialContext(ctx, "tcp", t.url.Host)
		if err != nil {
			return err
		}
		return connection.Close()
	case "udp":
		connection, err := new(net.Dialer).DialContext(ctx, "udp", t.url.Host)
		if err != nil {
			return err
		}
		defer connection.Close()
		deadline, _ := ctx.Deadline()
		connection.SetDeadline(deadline)
		if _, err := connection.Write([]byte("?")); err != nil {
			return err
		}
		_, err = connection.Read(make([]byte, 1))
		return err
	default:
		return t.resolve(ctx)
	}
}

// resolve asks a name server for the name in the path. Without one any answer will do: that there is no such name, too.
func (t target) resolve(ctx context.Context) error {
	network := "udp"
	if t.url.Scheme == "dns+tcp" {
		network = "tcp"
	}
	server := t.url.Host
	if t.url.Port() == "" {
		server = net.JoinHostPort(t.url.Hostname(), "53")
	}
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server)
	}}
	name := strings.TrimPrefix(t.url.Path, "/")
	if name != "" {
		_, err := resolver.LookupHost(ctx, name)
		return err
	}
	var answer *net.DNSError
	_, err := resolver.LookupHost(ctx, "terrarium.invalid.")
	if errors.As(err, &answer) && answer.IsNotFound {
		return nil
	}
	return err
}
