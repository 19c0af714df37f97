"""Trained networks in small files: a seed for the magnitudes, a bit for each sign, the mask, and the rest as it is.

=============  ==========================================================================
network        :func:`save`, :func:`load`, :func:`info`
pack           :func:`pack`, from the config and a checkpoint of a run
recipe         what a file says of itself, and the networks that it may name
sign_coding    sign-trained weights in a bit each
mask_coding    masks in few bits
container      the file: safetensors, with a sha256 of each part
checkpoint     a file as a run takes it: a checkpoint, or a network of MODELS
=============  ==========================================================================

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
