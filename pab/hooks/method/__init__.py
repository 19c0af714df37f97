"""Hooks that are part of the method: they change what is trained, or count what it does."""
