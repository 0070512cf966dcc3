"""The door to PyTorch for training: `from halfeven.training.pytorch import Tensor, torch`.

Without PyTorch every module of this package is refused here, with what to install. To the type checker all of PyTorch
is `Any`, so that it says the same where PyTorch is installed and where it is not.
"""

from typing import Any, TypeAlias

from halfeven.errors import BadOption

try:
    import torch as _torch
except ImportError as error:
    raise BadOption("Training needs PyTorch, which is not installed: pip install 'halfeven[torch]'.") from error

torch: Any = _torch
Tensor: TypeAlias = Any
"""torch.Tensor"""
Generator: TypeAlias = Any
"""torch.Generator"""
