//go:build tools

// Package tools names the etcd server that the lab builds, so that go.mod and go.sum hold all they need.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
)
