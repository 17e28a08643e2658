"""Deploy: how action chunks follow one another on a robot."""
