"""The class of each pixel by csrc/semantic_votes_cpu.cpp on a CPU.

What is computed is defined by image_processing/post_processing.py in plain PyTorch, which runs everywhere else.
"""

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.c_arguments import integers, pointer, threads
from m2f.modeling_m2f.kernels.cpu_source import CpuSource
from m2f.modeling_m2f.kernels.resized_masks import Size, axis_tables, table_addresses

SEMANTIC_VOTES = CpuSource("semantic_votes_cpu.cpp", "Post-processing")


def vote_by_class(
    class_probs: Tensor, logits: Tensor, padded: Size, valid: Size, target: Size, resize_scores: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The class of each pixel whose sum over the queries of class probability * sigmoid(logit) is the largest.

    Args:
        class_probs: (Q,K) float32.
        logits: (Q,h,w) of any floating dtype, all finite, on the CPU.
        padded: the logits are resized to this size, at least (h, w), cropped to `valid` and resized to `target`; all
            bilinear.
        resize_scores: the sums are made at the size `padded`, cropped and resized; else the logits are.

    Returns:
        (H,W) int64 labels, of equal classes the first; (H,W) float32 score of that class, and the sum of all classes'.
    """
    logits, class_probs = logits.detach().float().contiguous(), class_probs.detach().contiguous()
    scored = valid if resize_scores else target  # the size at which scores are made, as far as they are needed
    tables = axis_tables(logits.shape[1:], padded, valid, scored) + axis_tables(scored, scored, scored, target)
    sizes = integers(*class_probs.shape, *logits.shape[1:], *scored, *target, scored != target)
    results = torch.empty(target, dtype=torch.int64), torch.empty(target), torch.empty(target)
    inputs = (pointer(logits), pointer(class_probs), table_addresses(tables), sizes)
    work = len(logits) * scored[0] * scored[1]
    SEMANTIC_VOTES.library().m2f_vote(*inputs, *map(pointer, results), *threads(work))
    return results
