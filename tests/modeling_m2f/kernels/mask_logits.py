"""Mask logits of the tests of post-processing's kernels, and the sizes that they are resized to."""

import torch

# Logits, padded, valid and target size: nothing to crop, both steps, enlarged, shrunk, shapes far from square, and
# maps smaller than what the kernel reads at once.
SIZES = [
    ((24, 40), ((96, 160), (96, 160), (96, 160))),
    ((24, 40), ((96, 160), (90, 133), (54, 80))),
    ((24, 40), ((96, 160), (90, 133), (200, 297))),
    ((24, 40), ((96, 160), (90, 133), (7, 5))),
    ((3, 70), ((12, 280), (9, 279), (31, 65))),
    ((70, 3), ((280, 12), (279, 9), (65, 31))),
    ((1, 1), ((4, 4), (3, 4), (33, 2))),
    ((2, 2), ((8, 8), (1, 1), (3, 3))),
    ((16, 16), ((16, 16), (16, 16), (16, 16))),
]


def masks_of(kind: str, count: int, size: tuple[int, int]) -> torch.Tensor:
    """Discs with a border of some cells; or noise, of which no bound says anything; or constant, full of ties."""
    generator = torch.Generator().manual_seed(count + size[0])
    if kind == "noise":
        return 3 * torch.randn(count, *size, generator=generator)
    if kind == "ties":
        levels = torch.tensor([-200.0, -30.0, 0.0, 30.0])
        return levels[torch.randint(4, (count, 1, 1), generator=generator)].expand(count, *size).contiguous()
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    centres = torch.rand(count, 2, 1, 1, generator=generator) * torch.tensor(size).view(2, 1, 1)
    distance = torch.hypot(rows - centres[:, 0], columns - centres[:, 1])
    return 4 * (torch.rand(count, 1, 1, generator=generator) * max(size) / 2 - distance)
