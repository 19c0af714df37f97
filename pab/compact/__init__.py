"""Trained networks in small files: a seed for the magnitudes, a bit for each sign, the mask, and the rest as it is.

The format is described in docs/files.md.
"""

try:
    from .container import CompactError
    from .network import info, load, save
    from .pack import pack
except ModuleNotFoundError as error:
    if error.name not in ('safetensors', 'constriction'):
        raise
    raise ImportError(f'compact files need {error.name}: pip install safetensors constriction') from error

__all__ = ['CompactError', 'info', 'load', 'pack', 'save']
