package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func written(t *testing.T, fullNameOfImage string) (path string, digest string) {
	t.Helper()
	path = t.TempDir()
	image, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	written, err := layout.Write(path, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := written.AppendImage(image, layout.WithAnnotations(map[string]string{fullName: fullNameOfImage})); err != nil {
		t.Fatal(err)
	}
	hash, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return path, hash.String()
}

func TestServesTheImageUnderItsPath(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	path, digest := written(t, "gcr.io/staging/image:tag")
	if err := push(address, path); err != nil {
		t.Fatal(err)
	}
	for _, wanted := range []string{"/staging/image:tag", "/staging/image@" + digest} {
		reference, err := name.ParseReference(address+wanted, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		found, err := remote.Head(reference)
		if err != nil || found.Digest.String() != digest {
			t.Errorf("%s: %v %v", wanted, found, err)
		}
	}
}

func TestANameWithoutATagIsAnError(t *testing.T) {
	path, _ := written(t, "gcr.io/staging/image")
	if err := push("127.0.0.1:1", path); err == nil || !strings.Contains(err.Error(), "gcr.io/staging/image") {
		t.Error(err)
	}
}
