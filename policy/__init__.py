"""What is learned, and how an action chunk is sampled from it."""
