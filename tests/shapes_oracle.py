"""A model that sees the truth of the shapes dataset."""

import torch
from shapes_dataset import SIZE
from torch import nn
from transformers.modeling_outputs import ModelOutput


class Oracle(nn.Module):
    """Predicts the segments that the pixels show: a query for each colour, and one for the rest."""

    def __init__(self, processor):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.processor = processor
        self.batches = []

    def forward(self, pixel_values, pixel_mask):
        assert not self.training and not torch.is_grad_enabled()
        self.batches.append(len(pixel_values))
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (self.processor.image_mean, self.processor.image_std))
        bright = (pixel_values * std + mean) > 0.5  # (B, 3, H, W): a channel for each class
        masks = torch.where(bright[:, :, 2::4, 2::4], 20.0, -20.0)
        classes = torch.full((len(masks), 3, 4), -20.0)
        for label in range(3):
            there = bright[:, label].flatten(1).any(1)
            classes[:, label, label] = torch.where(there, 20.0, -20.0)
            classes[:, label, 3] = torch.where(there, -20.0, 20.0)
        sizes = torch.tensor([[SIZE, SIZE]] * len(masks))
        return ModelOutput(class_queries_logits=classes, masks_queries_logits=masks, valid_sizes=sizes)
