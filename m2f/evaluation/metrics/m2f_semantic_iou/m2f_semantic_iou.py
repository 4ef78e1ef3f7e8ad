"""SemanticIoU (m2f.evaluation.semantic_iou) for `evaluate.load`."""

import datasets
import evaluate

from m2f.evaluation.evaluate_module import StreamingModule
from m2f.evaluation.semantic_iou import SemanticIoU
from m2f.image_processing.label_values import IGNORE_INDEX

_CITATION = """\
@inproceedings{long2015fully,
  title={Fully Convolutional Networks for Semantic Segmentation},
  author={Long, Jonathan and Shelhamer, Evan and Darrell, Trevor},
  booktitle={CVPR},
  year={2015}
}
"""


class M2fSemanticIou(StreamingModule, evaluate.Metric):
    """`evaluate.load(folder, id2label=..., ignore_index=...)`; the arguments are those of `SemanticIoU`."""

    def __init__(self, *args, id2label: dict[int, str], ignore_index: int | None = IGNORE_INDEX, **kwargs):
        self.metric = SemanticIoU(id2label, ignore_index)
        super().__init__(*args, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        label_map = datasets.List(datasets.List(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description="Mean, frequency-weighted and per-class IoU, pixel accuracy and mean accuracy.",
            citation=_CITATION,
            inputs_description=SemanticIoU.__doc__,
            features=datasets.Features({"predictions": label_map, "references": label_map}),
            reference_urls=["https://huggingface.co/spaces/evaluate-metric/mean_iou"],
        )
