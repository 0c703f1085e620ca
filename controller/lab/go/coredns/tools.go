//go:build tools

// Package tools names the DNS server that the lab builds, so that go.mod and go.sum hold all they need.
package tools

import (
	_ "github.com/coredns/coredns"
)
