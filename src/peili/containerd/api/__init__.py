"""Messages of containerd's gRPC interface: generated, see README.md beside this file."""
