// Command sample is a small web app to try a cluster with, and, as its image has no shell, the few tools a test wants
// to run inside a container.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const usage = `usage: sample [COMMAND]

  serve [--listen :8080]   the web app (default); on the same port of UDP, whoever
                           sends is answered with this host's name
  get URL                  fetch URL, write the answer's body to stdout
  reach [--within 10s] [NAME=]URL...
                           try http://, tcp://HOST:PORT, udp://HOST:PORT,
                           dns://SERVER/NAME and dns+tcp:// URLs, a line of output
                           each; 1 if one fails
  api PATH                 ask the cluster's API, as this Pod's service account
  cat FILE...              write files to stdout
  ls DIR                   list a directory
  env                      list the environment
  sleep DURATION           wait, e.g. 1.5s or 2m
  burn DURATION            keep one core busy
  hold MIB DURATION        have so much memory in use
  exit CODE                end with this exit code
  echo ARGS...             write the arguments to stdout
  resolve QUESTION...      ask the resolver: a:NAME, cname:NAME, ptr:ADDRESS, srv:NAME; over TCP with tcp/ before it

The web app answers:
  GET  /         a page with host name, Pod address and time
  GET  /healthz  200, or 500 once broken
  GET  /env      the environment
  POST /break    makes /healthz fail
`

const getTimeout = 5 * time.Second

// errUsage asks for the usage text; its exit code is 2.
var errUsage = errors.New("wrong arguments")

// exitCode is an error that says nothing and ends the program with this code.
type exitCode int

func (code exitCode) Error() string { return "exit " + strconv.Itoa(int(code)) }

func main() {
	err := run(os.Args[1:], os.Stdout)
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "sample: %v\n\n%s", err, usage)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "sample:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	command := "serve"
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	switch command {
	case "serve":
		return serveCommand(args)
	case "get":
		return withOne(args, func(url string) error { return get(url, out) })
	case "api":
		return withOne(args, func(path string) error { return api(path, out) })
	case "reach":
		return reachCommand(args, out)
	case "cat":
		return cat(args, out)
	case "ls":
		return withOne(args, func(dir string) error { return ls(dir, out) })
	case "env":
		_, err := io.WriteString(out, environment())
		return err
	case "sleep":
		return withOne(args, sleep)
	case "burn":
		return withOne(args, burn)
	case "hold":
		return hold(args)
	case "exit":
		return withOne(args, exit)
	case "echo":
		_, err := fmt.Fprintln(out, strings.Join(args, " "))
		return err
	case "resolve":
		return resolve(args, out)
	case "help", "-h", "--help":
		_, err := io.WriteString(out, usage)
		return err
	}
	return fmt.Errorf("%w: there is no command %q", errUsage, command)
}

func withOne(args []string, f func(string) error) error {
	if len(args) != 1 {
		return fmt.Errorf("%w: one argument is needed, %d were given", errUsage, len(args))
	}
	return f(args[0])
}

func serveCommand(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	listen := flags.String("listen", ":8080", "address to listen on")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%w: serve takes no argument %q", errUsage, flags.Arg(0))
	}
	return serve(*listen)
}

func get(url string, out io.Writer) error {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	return fetch(&http.Client{Timeout: getTimeout}, request, out)
}

func fetch(client *http.Client, request *http.Request, out io.Writer) error {
	url := request.URL
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(out, response.Body); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if response.StatusCode >= 400 {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

func cat(paths []string, out io.Writer) error {
	if len(paths) == 0 {
		return fmt.Errorf("%w: cat needs a file", errUsage)
	}
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, file)
		file.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func ls(dir string, out io.Writer) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		fmt.Fprintln(out, entry.Name())
	}
	return nil
}

// environment is one NAME=value a line, sorted.
func environment() string {
	variables := os.Environ()
	slices.Sort(variables)
	return strings.Join(variables, "\n") + "\n"
}

func sleep(duration string) error {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	time.Sleep(d)
	return nil
}

func exit(code string) error {
	n, err := strconv.ParseUint(code, 10, 8)
	if err != nil {
		return fmt.Errorf("%w: exit code %q is not between 0 and 255", errUsage, code)
	}
	return exitCode(n)
}
