"""An exported graph in the place of the model that it was made of."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from m2f.exported.graph_description import read_description
from m2f.exported.graph_form import FORMATS, LEAST_EDGE
from m2f.exported.graph_runtimes import open_graph
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.outputs import M2FForUniversalSegmentationOutput
from m2f.modeling_m2f.pixel_values import check_shapes, check_values, image_sizes, pad_to_multiple, sizes_to_report


def is_graph(checkpoint: str | os.PathLike | None) -> bool:
    """Whether a checkpoint's name is that of an exported graph's file."""
    return checkpoint is not None and Path(checkpoint).suffix in FORMATS.values() and not Path(checkpoint).is_dir()


class ExportedNetwork(nn.Module):
    """A graph of logits with the arguments and outputs of `M2FForUniversalSegmentation.forward` that prediction needs.

    Args:
        graph: file that `m2f export` wrote, with its description beside it.

    Raises:
        FileNotFoundError, ValueError: see `read_description`; or the graph gives finished results and no logits.
        ImportError: the library that runs it is not installed.
    """

    def __init__(self, graph: str | os.PathLike):
        super().__init__()
        self.graph = Path(graph)
        self.description, self.form = read_description(graph)
        if self.form.post != "none":
            raise ValueError(
                f"{graph} gives finished results ({self.form.post}) at the size of its input, and here logits are "
                "needed; export the checkpoint with --post none"
            )
        labels = {int(label): name for label, name in self.description["labels"].items()}
        self.config = SimpleNamespace(
            id2label=labels,
            label2id={name: label for label, name in labels.items()},
            num_labels=len(labels),
            num_queries=self.description["num_queries"],
            mask_padding=self.description["mask_padding"],
            thing_label_ids=self.description["thing_label_ids"],
            task=self.description["results"]["task"],
        )
        # Of no weight: whoever prepares inputs asks a model's parameters where they are and of which type.
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        self._run = open_graph(self.graph, self.form)

    def processor(self, **fields: Any) -> M2FImageProcessor:
        """The image processor whose inputs the graph takes; `fields` in place of its settings."""
        return M2FImageProcessor.from_dict(self.description["processor"], **fields)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> M2FForUniversalSegmentationOutput:
        """
        Args:
            pixel_values: (B, C, height, width). pixel_mask: (B, height, width).

        Raises:
            ValueError: they do not fit, or are larger than the graph's size.
        """
        check_shapes(pixel_values, pixel_mask, self.description["inputs"]["pixel_values"]["shape"][1])
        check_values(pixel_values, pixel_mask)
        sizes = image_sizes(pixel_values, pixel_mask)
        valid_sizes, input_sizes = sizes_to_report(sizes, pixel_values, pixel_mask)
        pixel_values = pad_to_multiple(pixel_values.float())
        cells = [length // 4 for length in pixel_values.shape[2:]]
        canvas = self._onto_canvas(pixel_values, sizes)
        together = self.form.batch or len(canvas)
        parts = zip(canvas.split(together), sizes.split(together), strict=True)
        classes, masks = zip(*(self._logits(*part) for part in parts), strict=True)
        return M2FForUniversalSegmentationOutput(
            class_queries_logits=torch.cat(classes),
            masks_queries_logits=torch.cat(masks)[:, :, : cells[0], : cells[1]],
            valid_sizes=valid_sizes,
            input_sizes=input_sizes,
        )

    def _onto_canvas(self, pixel_values: Tensor, sizes: Tensor) -> Tensor:
        height, width = pixel_values.shape[2:]
        rows, columns = self.form.size or (max(height, LEAST_EDGE), max(width, LEAST_EDGE))
        if height > rows or width > columns:
            raise ValueError(
                f"the input is {height} x {width}, and {self.graph.name} was exported for {rows} x {columns}; leave "
                "the sizes to its own image processor, or export with another --size"
            )
        if not self.form.padding and not bool((sizes == sizes.new_tensor([rows, columns])).all()):
            raise ValueError(
                f"{self.graph.name} was exported for images that fill {rows} x {columns} (--no-padding); one of "
                f"{' x '.join(map(str, sizes[0].tolist()))} came"
            )
        return pad(pixel_values, (0, columns - width, 0, rows - height))

    def _logits(self, pixel_values: Tensor, sizes: Tensor) -> list[Tensor]:
        """Of at most as many images as the graph takes."""
        images = len(pixel_values)
        if self.form.batch is not None and images < self.form.batch:
            missing = self.form.batch - images
            pixel_values = torch.cat([pixel_values, pixel_values[-1:].expand(missing, -1, -1, -1)])
            sizes = torch.cat([sizes, sizes[-1:].expand(missing, -1)])
        inputs = (pixel_values, sizes) if self.form.padding else (pixel_values,)
        return [x[:images].to(pixel_values.device) for x in self._run([x.cpu() for x in inputs])]
