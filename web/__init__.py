"""Pages that this machine serves to a browser on it: who may ask for one, and the look that they share."""
