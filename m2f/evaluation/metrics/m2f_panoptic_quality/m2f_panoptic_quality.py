"""PanopticQuality (m2f.evaluation.panoptic_quality) for `evaluate.load`."""

import datasets
import evaluate

from m2f.evaluation.evaluate_module import StreamingModule
from m2f.evaluation.panoptic_quality import PanopticQuality

_CITATION = """\
@inproceedings{kirillov2019panoptic,
  title={Panoptic Segmentation},
  author={Kirillov, Alexander and He, Kaiming and Girshick, Ross and Rother, Carsten and Doll{\\'a}r, Piotr},
  booktitle={CVPR},
  year={2019}
}
"""


class M2fPanopticQuality(StreamingModule, evaluate.Metric):
    """`evaluate.load(folder, id2label=..., thing_label_ids=...)`; the arguments are those of `PanopticQuality`."""

    def __init__(self, *args, id2label: dict[int, str], thing_label_ids: list[int] | None = None, **kwargs):
        self.metric = PanopticQuality(id2label, thing_label_ids)
        super().__init__(*args, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        segment = {"id": datasets.Value("int64"), "label_id": datasets.Value("int64")}
        image = {"segmentation": datasets.List(datasets.List(datasets.Value("int64")))}
        return evaluate.MetricInfo(
            description="PQ, SQ and RQ of all classes, things (_th) and stuff (_st), as panopticapi counts them.",
            citation=_CITATION,
            inputs_description=PanopticQuality.__doc__,
            features=datasets.Features(
                {
                    "predictions": {**image, "segments_info": datasets.List(segment)},
                    "references": {
                        **image,
                        "segments_info": datasets.List({**segment, "iscrowd": datasets.Value("int64")}),
                    },
                }
            ),
            reference_urls=["https://github.com/cocodataset/panopticapi"],
        )
