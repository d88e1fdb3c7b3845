package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

const resolveTimeout = 10 * time.Second

// resolve writes a line for each question: what was asked, and what this machine's resolver says. It ends with 1 where a
// question had no answer.
func resolve(questions []string, out io.Writer) error {
	if len(questions) == 0 {
		return fmt.Errorf("%w: resolve needs a question", errUsage)
	}
	var failed error
	for _, question := range questions {
		answers, err := ask(question)
		var unanswered *net.DNSError
		switch {
		case errors.Is(err, errUsage):
			return err
		case errors.As(err, &unanswered):
			answers, failed = []string{"error:", unanswered.Err}, exitCode(1)
		case err != nil:
			return err
		}
		fmt.Fprintf(out, "%s = %s\n", question, strings.Join(answers, " "))
	}
	return failed
}

// ask answers one question, such as a:NAME or tcp/a:NAME. Addresses are sorted.
func ask(question string) ([]string, error) {
	kind, name, _ := strings.Cut(question, ":")
	kind, isTCP := strings.CutPrefix(kind, "tcp/")
	resolver := net.Resolver{PreferGo: true}
	if isTCP {
		resolver.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	switch kind {
	case "a":
		addresses, err := resolver.LookupHost(ctx, name)
		slices.Sort(addresses)
		return addresses, err
	case "cname":
		canonical, err := resolver.LookupCNAME(ctx, name)
		return []string{canonical}, err
	case "ptr":
		return resolver.LookupAddr(ctx, name)
	case "srv":
		_, records, err := resolver.LookupSRV(ctx, "", "", name)
		var answers []string
		for _, record := range records {
			answers = append(answers, fmt.Sprintf("%s:%d", record.Target, record.Port))
		}
		slices.Sort(answers)
		return answers, err
	}
	return nil, fmt.Errorf("%w: %q is no question", errUsage, question)
}
