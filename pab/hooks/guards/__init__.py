"""Hooks that keep a run reproducible, resumable and whole."""
