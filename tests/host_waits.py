"""Finds on a CPU what would make the host wait for a GPU."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class HostWaitError(AssertionError):
    """The host asked for a value that is computed on the device."""


# whose results, or the shapes of these, the host has to know
_OPERATORS = (
    "_local_scalar_dense",
    "allclose",
    "bincount",
    "equal",
    "histc",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "_unique",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
)
# what a tensor on the CPU answers without any operator
_METHODS = ("__array__", "__bool__", "__float__", "__int__", "cpu", "item", "numpy", "tolist")
_BOOLEAN = (torch.bool, torch.uint8)


class _Operators(TorchDispatchMode):
    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = []
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [ids for ids in args[1] if ids is not None and ids.dtype in _BOOLEAN]
        counted = name == "repeat_interleave" and kwargs and kwargs.get("output_size") is None
        if self.watch.is_on and (name in _OPERATORS or masks or counted):
            raise HostWaitError(f"aten.{name} makes the host wait for the device")
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if self.watch.is_on and name in _METHODS and isinstance(args[0], torch.Tensor):
            raise HostWaitError(f"Tensor.{name} makes the host wait for the device")
        if name == "one_hot" and len(args) > 1:  # checks the numbers, on a CPU alone
            func = self.watch.allowed(func)
        return func(*args, **(kwargs or {}))


class HostWaits:
    """Raises `HostWaitError` where the host would wait, in its block, forward and backward.

    Attributes:
        is_on: Whether it watches.
    """

    def __init__(self):
        self.is_on, self.modes = False, contextlib.ExitStack()

    def __enter__(self):
        self.modes.enter_context(_Operators(self))
        self.modes.enter_context(_Methods(self))
        self.is_on = True
        return self

    def __exit__(self, *error):
        self.is_on = False
        self.modes.close()

    def allowed(self, function):
        """The function, in which the host may wait."""

        def run(*args, **kwargs):
            before, self.is_on = self.is_on, False
            try:
                return function(*args, **kwargs)
            finally:
                self.is_on = before

        return run
