"""Hooks that look on and tell a person what a run does and costs."""
