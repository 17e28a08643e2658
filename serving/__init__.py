"""A policy over the network: the server, and the client that controls a robot with it."""
