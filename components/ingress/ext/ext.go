// Package ext is the extension point of Traefik's configuration, with no extension. Upstream has it as a module in a
// directory of its own, which its go.mod replaces; a directory with a go.mod is not part of a published module.
package ext

// HTTP adds nothing to dynamic.HTTPConfiguration.
type HTTP struct{}

// Router adds nothing to dynamic.Router.
type Router struct{}

// RouterIng adds nothing to the annotations of an Ingress.
type RouterIng struct{}

// ToRouter makes nothing of nothing.
func (RouterIng) ToRouter() Router { return Router{} }
