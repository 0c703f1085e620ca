"""podroute on Kubernetes: the operator, the node agent, the CNI plugin, the lab and the command line."""
