"""What a browser shows of demonstrations, and of what a policy would do in them."""
