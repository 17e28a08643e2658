"""The tasks that come with recede; `envs.catalogue` names them."""
