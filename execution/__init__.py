"""Executions: how the chunks of a policy become one action for each control step."""
