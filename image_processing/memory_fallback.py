"""Post-processing where a GPU's memory does not suffice: in smaller chunks, then on the CPU."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from transformers.utils import logging

from m2f.image_processing.post_processing import CHUNK_BYTES

logger = logging.get_logger(__name__)

Result = TypeVar("Result")

# Bytes of upsampled masks at one time, of one try after the other; 1 is a mask at a time.
CHUNKS = (CHUNK_BYTES, CHUNK_BYTES // 8, 1)


def within_memory(work: Callable[[Tensor, Tensor, int], Result], class_logits: Tensor, mask_logits: Tensor) -> Result:
    """`work(class_logits, mask_logits, chunk_bytes)` of one image, repeated with less memory where it ran out.

    The first time that memory runs out a warning says so. Results of the CPU stay there, because the GPU may have no
    room for them.

    Raises:
        torch.OutOfMemoryError: by `work` on the CPU.
    """
    for chunk_bytes in CHUNKS:
        try:
            return work(class_logits, mask_logits, chunk_bytes)
        except torch.OutOfMemoryError:
            logger.warning_once(
                f"Out of memory on {mask_logits.device} in post-processing: it is repeated a few masks at a time, and "
                "where that does not help on the CPU, where the results then stay. Smaller target_sizes or a smaller "
                "batch in the model leave more memory."
            )
        # Here the exception is gone, and with it the tensors that its traceback held.
        if mask_logits.is_cuda:
            torch.cuda.empty_cache()
    return work(class_logits.cpu(), mask_logits.cpu(), CHUNKS[0])
