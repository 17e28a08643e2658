"""A policy over the network: the server, and the client of a robot."""
