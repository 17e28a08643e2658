"""Record demonstrations."""
