package main

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestAppTurnsUnhealthyWhenBroken(t *testing.T) {
	server := httptest.NewServer(logged(newApp()))
	defer server.Close()
	var out strings.Builder
	if err := run([]string{"get", server.URL + "/"}, &out); err != nil || !strings.Contains(out.String(), "<h1>terrarium</h1>") {
		t.Fatalf("page: %v, %s", err, out.String())
	}
	if err := run([]string{"get", server.URL + "/healthz"}, &out); err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(server.URL+"/break", "", nil)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("break: %v, %v", response, err)
	}
	response.Body.Close()
	if err := run([]string{"get", server.URL + "/healthz"}, &out); err == nil || !strings.Contains(err.Error(), "500") {
		t.Fatalf("healthz after break: %v", err)
	}
	if err := run([]string{"get", server.URL + "/nowhere"}, &out); err == nil {
		t.Fatal("an unknown path was found")
	}
}

func TestTools(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "note")
	if err := os.WriteFile(file, []byte("moss\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"moss\nmoss\n":              {"cat", file, file},
		"note\n":                    {"ls", dir},
		"a b\n":                     {"echo", "a", "b"},
		"":                          {"sleep", "1ms"},
		"a:127.0.0.1 = 127.0.0.1\n": {"resolve", "a:127.0.0.1"},
		usage:                       {"--help"},
	} {
		var out strings.Builder
		if err := run(args, &out); err != nil || out.String() != want {
			t.Errorf("%v: %v, %q", args, err, out.String())
		}
	}
	if err := run([]string{"exit", "7"}, nil); !errors.Is(err, exitCode(7)) {
		t.Errorf("exit 7: %v", err)
	}
	for _, args := range [][]string{{"nonsense"}, {"exit", "256"}, {"get"}, {"cat"}, {"sleep", "1"}, {"serve", "now"}, {"burn", "long"}, {"hold", "1"}, {"hold", "-1", "1s"},
		{"reach"}, {"reach", "ftp://host"}, {"reach", "--within", "soon", "tcp://host:1"}, {"resolve"}, {"resolve", "mx:x"}} {
		if err := run(args, nil); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestReachTellsOfEachTarget(t *testing.T) {
	server := httptest.NewServer(newApp())
	defer server.Close()
	var out strings.Builder
	err := run([]string{"reach", "page=" + server.URL + "/", "gone=" + server.URL + "/gone",
		strings.Replace(server.URL, "http", "tcp", 1), "shut=tcp://127.0.0.1:1", "silent=dns://127.0.0.1:1/name."}, &out)
	if !errors.Is(err, exitCode(1)) {
		t.Fatalf("%v\n%s", err, out.String())
	}
	lines := strings.Split(out.String(), "\n")
	for i, prefix := range []string{"ok\tpage\t", "failed\tgone\t404", "ok\ttcp://127.", "failed\tshut\t", "failed\tsilent\t"} {
		if !strings.HasPrefix(lines[i], prefix) {
			t.Errorf("%q does not begin with %q", lines[i], prefix)
		}
	}
}

func TestReachByDatagrams(t *testing.T) {
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := socket.LocalAddr()
	socket.Close()
	if err := answerDatagrams(address); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run([]string{"reach", "udp://" + address.String()}, &out); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
}

func TestReachTriesAgain(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	var out strings.Builder
	if err := run([]string{"reach", "--within", "30s", server.URL}, &out); err != nil || asked.Load() != 3 {
		t.Fatalf("%v after %d tries: %s", err, asked.Load(), out.String())
	}
}
