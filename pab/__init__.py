"""pab: sparse networks that are never trained, only unmasked."""

__version__ = '0.1.0'
