"""Masked attention that is faded out, so that the trained model predicts without masks.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, section 3.3: in each layer a query's
mask is used with a probability that falls from 1 to 0, layer after layer, by (1 - progress)^0.9.
"""

from m2f.training.training_options import TrainingOptions

_POWER = 0.9  # of EoMT's code, the same as that of its learning rate


class MaskAnnealing:
    """The schedule of a run.

    Args:
        start, end: steps between which the masks of all layers fade out, each layer's in its own part, the first
            layer's first.
        layers: of the Transformer decoder, those with masked attention.
    """

    def __init__(self, start: float, end: float, layers: int):
        self.start = start
        self.end = end
        self.layers = layers

    @classmethod
    def from_options(cls, options: TrainingOptions, layers: int) -> "MaskAnnealing | None":
        """None where the options ask for none."""
        if not options.mask_annealing:
            return None
        start, end = options.mask_annealing_steps
        return cls(start, end, layers)

    def shares(self, step: int) -> list[float]:
        """Of each layer, the share in [0, 1] of the queries whose masks are used in `step`, which counts from 0."""
        part = (self.end - self.start) / self.layers
        progress = [(step - self.start - layer * part) / part for layer in range(self.layers)]
        return [(1 - min(max(share, 0.0), 1.0)) ** _POWER for share in progress]
