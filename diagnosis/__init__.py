"""What works here and what does not: the machine, demonstrations, a trained policy, and a training on one episode."""
