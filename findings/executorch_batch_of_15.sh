#!/usr/bin/env bash
# executorch 1.5.1 (with torch 2.14.1): a convolution lowered to XNNPACK for up to 64 images takes at most 15.
#
# The batch is declared as Dim('batch', max=64), and the lowered program still says [2, 64]. A linear layer lowered in
# the same way takes 64 images. A convolution with stride 1 takes 15; 16 fail as the input is resized (error 0x10),
# since memory was planned for 15. Nothing is said while it is exported, lowered or written. The example has two images
# here; from an example of 20 images the same convolution takes 1 to 64, which is a way out. So it does without XNNPACK.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 executorch==1.5.1 torchao==0.18.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch.export import Dim, export


def taken(network, example=2):
    """The bounds that the lowered program states, and the batch sizes that it takes."""
    program = export(network.eval(), (torch.zeros(example, 3, 8, 8),), dynamic_shapes=({0: Dim('batch', max=64)},))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (bounds,) = lowered.exported_program().range_constraints.values()
    with open('network.pte', 'wb') as file:
        file.write(lowered.to_executorch().buffer)
    loaded = Runtime.get().load_program('network.pte')
    method = loaded.load_method('forward')
    sizes = []
    for images in (1, 2, 15, 16, 64):
        try:
            method.execute([torch.zeros(images, 3, 8, 8)])
        except RuntimeError as error:
            assert 'set_inputs' in str(error), error
        else:
            sizes.append(images)
    return int(bounds.upper), sizes


linear = taken(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4)))
print(f'linear layer: at most {linear[0]} by its program; takes {linear[1]}')
assert linear == (64, [1, 2, 15, 16, 64])
convolution = taken(torch.nn.Conv2d(3, 8, 3))
print(f'convolution: at most {convolution[0]} by its program; takes {convolution[1]}')
assert convolution == (64, [1, 2, 15]), 'a convolution takes other batches now'
convolution = taken(torch.nn.Conv2d(3, 8, 3), example=20)
print(f'from an example of 20: at most {convolution[0]} by its program; takes {convolution[1]}')
assert convolution == (64, [1, 2, 15, 16, 64])
PYTHON
