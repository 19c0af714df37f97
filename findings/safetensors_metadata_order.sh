#!/usr/bin/env bash
# safetensors 0.8.0 (with numpy 2.4.6): equal tensors with equal metadata give files that differ.
#
# Tensors are laid out in a fixed order, so one expects a file to be a function of its content, as a checksum or a
# cache of files needs. But the entries of `metadata` are written in the order of a hash map that is seeded anew for
# each file: with six entries, ten calls in one process gave ten different files of one length. One entry is stable.
# What ships files with a checksum writes a single metadata entry, such as one JSON text.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load, save

tensors = {'a': np.arange(3, dtype=np.float32)}
six = {str(number): 'x' for number in range(6)}
files = [save(tensors, metadata=six) for _ in range(20)]
print(f'six entries: {len(set(files))} different files of {len({len(file) for file in files})} length from 20 calls')
assert len(set(files)) > 1, 'the files are equal now'
assert len({len(file) for file in files}) == 1
assert all((load(file)['a'] == tensors['a']).all() for file in files)
one = {save(tensors, metadata={'all': str(six)}) for _ in range(20)}
print(f'one entry: {len(one)} file from 20 calls')
assert len(one) == 1
PYTHON
