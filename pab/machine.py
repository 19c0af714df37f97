"""The machine that computes a result, on which its last bits depend."""

import platform
from pathlib import Path

import torch


def processor() -> str:
    """The model of this machine's processor, such as 'AMD EPYC 9R14'; its architecture where no more is known."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def arithmetic(device: torch.device) -> dict[str, str]:
    """Name -> value of what decides in which order, and how exactly, torch adds up numbers on a device."""
    of_device = (
        {'GPU': torch.cuda.get_device_name(device)}
        if device.type == 'cuda'
        else {
            'processor': processor(),
            'instruction set': torch.backends.cpu.get_cpu_capability(),
            'threads': str(torch.get_num_threads()),
        }
    )
    return {**of_device, 'torch': str(torch.__version__)}
