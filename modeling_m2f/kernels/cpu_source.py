"""The C++ source of a kernel: whether it runs, and its compiled library."""

import ctypes
from collections.abc import Collection

import torch

from m2f.modeling_m2f.kernels.c_arguments import C_TYPES
from m2f.modeling_m2f.kernels.cpu_compiler import KernelLibrary, load_library
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError, explain_reference, kernels_choice
from m2f.modeling_m2f.kernels.kernel_sources import read_source


class CpuSource:
    """csrc/`file`, which has a library for each type and set of sizes that are asked for.

    Args:
        file: its name in csrc.
        what: the work that it does, as warnings name it, such as "Group normalisation".
        dtypes: what M2F_DTYPE may be; without any, the source has no M2F_DTYPE.
    """

    def __init__(self, file: str, what: str, dtypes: Collection[torch.dtype] = ()):
        self.file = file
        self.what = what
        self.dtypes = frozenset(dtypes)
        self._libraries: dict[tuple, KernelLibrary] = {}
        self._reasons: dict[tuple, str | None] = {}

    @torch.compiler.assume_constant_result  # a compiled graph keeps the choice that was made when it was traced
    def runs_on(self, device: torch.device, dtype: torch.dtype | None = None, **sizes: int) -> bool:
        """Whether the kernel does its work on `device`. Not on GPUs, which are meant to run plain PyTorch, and not in
        types beyond `dtypes`; on a CPU that has neither one built ahead nor a compiler, with one warning, neither.

        Args:
            dtype, sizes: as for `library`.

        Raises:
            ValueError: M2F_KERNELS has an unknown value.
            KernelUnavailableError: M2F_KERNELS is compiled or native and the CPU's kernel cannot be had.
        """
        if kernels_choice() == "reference" or device.type != "cpu" or (self.dtypes and dtype not in self.dtypes):
            return False
        reason = self.unavailable_reason(dtype, **sizes)
        return reason is None or explain_reference(device, reason, self.what)

    def unavailable_reason(self, dtype: torch.dtype | None = None, **sizes: int) -> str | None:
        """Why there is no `library` for these on this machine; None where there is. The answer is kept."""
        key = (dtype, *sizes.items())
        if key not in self._reasons:
            self._reasons[key] = self._failure(dtype, sizes)
        return self._reasons[key]

    def library(self, dtype: torch.dtype | None = None, **sizes: int) -> ctypes.CDLL:
        """The library for `dtype`, which is M2F_DTYPE in the source, and `sizes`, of which `head_dim` is M2F_HEAD_DIM;
        found, or else compiled, at the first call.

        Raises:
            KernelUnavailableError: that is not possible.
        """
        return self.found(dtype, **sizes).functions

    def found(self, dtype: torch.dtype | None = None, **sizes: int) -> KernelLibrary:
        """`library`, and where it comes from."""
        key = (dtype, *sizes.items())
        if key not in self._libraries:
            self._libraries[key] = load_library(read_source(self.file), self.definitions(dtype, **sizes))
        return self._libraries[key]

    @staticmethod
    def definitions(dtype: torch.dtype | None = None, **sizes: int) -> dict[str, str | int]:
        """Macros of a library, by their names."""
        defines: dict[str, str | int] = {f"M2F_{name.upper()}": size for name, size in sizes.items()}
        if dtype is not None:
            defines["M2F_DTYPE"] = C_TYPES[dtype]
        return defines

    def _failure(self, dtype: torch.dtype | None, sizes: dict[str, int]) -> str | None:
        try:
            self.library(dtype, **sizes)
        except KernelUnavailableError as error:
            return str(error)
        return None
