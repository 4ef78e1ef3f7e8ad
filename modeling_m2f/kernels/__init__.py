"""Operators that have a kernel, each with its own file: the entry, the `CpuSource` that says whether the kernel runs
(its C++ is in csrc), and where it is not somebody else's, the definition in plain PyTorch. kernel_policy.py says when
kernels are wanted, cpu_source.py, built_kernels.py and cpu_compiler.py where their libraries come from,
kernel_report.py what runs on a machine. Only deformable attention has a CUDA kernel too."""
