"""Tasks in simulation and their scripted demonstrators."""
