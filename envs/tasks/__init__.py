"""The tasks that come with Recede; `envs.catalogue` lists them."""
