package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
)

// Where the kubelet puts what a Pod needs to talk to the API.
const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// api asks by the Service's name, as programs in Pods do.
func api(path string, out io.Writer) error {
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return err
	}
	bundle, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return errors.New("ca.crt holds no certificate")
	}
	request, err := http.NewRequest(http.MethodGet, "https://kubernetes.default.svc/"+strings.TrimPrefix(path, "/"), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	return fetch(&http.Client{Timeout: getTimeout, Transport: transport}, request, out)
}
