// Command registry is a registry of images that are there as directories, in memory and without TLS, for as long as it runs.
//
//	registry ADDRESS LAYOUT…
//
// A LAYOUT is an OCI image layout whose index says each image's full name, as in containerd's archives. Whoever asks for
// that name's path gets the image, whatever registry the name is of.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

const fullName = "io.containerd.image.name"

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: registry ADDRESS LAYOUT…")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(address string, layouts []string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	ended := make(chan error)
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	go func() { ended <- http.Serve(listener, handler) }()
	for _, path := range layouts {
		if err := push(listener.Addr().String(), path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	fmt.Println("serves") // whoever started it waits for this line
	return <-ended
}

func push(address, path string) error {
	index, err := layout.ImageIndexFromPath(path)
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, each := range manifest.Manifests {
		reference, err := name.ParseReference(each.Annotations[fullName], name.StrictValidation)
		if err != nil {
			return err
		}
		image, err := index.Image(each.Digest)
		if err != nil {
			return err
		}
		host, err := name.NewRegistry(address, name.Insecure)
		if err != nil {
			return err
		}
		target := host.Repo(reference.Context().RepositoryStr()).Tag(reference.Identifier())
		if err := remote.Write(target, image); err != nil {
			return err
		}
	}
	return nil
}
