"""InstanceAveragePrecision (m2f.evaluation.instance_average_precision) for `evaluate.load`."""

from collections.abc import Sequence

import datasets
import evaluate

from m2f.evaluation.evaluate_module import StreamingModule
from m2f.evaluation.instance_average_precision import InstanceAveragePrecision

_CITATION = """\
@inproceedings{lin2014microsoft,
  title={Microsoft {COCO}: Common Objects in Context},
  author={Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva and
    Doll{\\'a}r, Piotr and Zitnick, C Lawrence},
  booktitle={ECCV},
  year={2014}
}
@inproceedings{cheng2021boundary,
  title={Boundary {IoU}: Improving Object-Centric Image Segmentation Evaluation},
  author={Cheng, Bowen and Girshick, Ross and Doll{\\'a}r, Piotr and Berg, Alexander C and Kirillov, Alexander},
  booktitle={CVPR},
  year={2021}
}
"""


class M2fAveragePrecision(StreamingModule, evaluate.Metric):
    """`evaluate.load(folder, id2label=...)`; the arguments are those of `InstanceAveragePrecision`."""

    def __init__(
        self,
        *args,
        id2label: dict[int, str],
        max_detections: Sequence[int] = (1, 10, 100),
        boundary: bool = True,
        engine: str = "auto",
        **kwargs,
    ):
        self.metric = InstanceAveragePrecision(id2label, max_detections, boundary, engine)
        super().__init__(*args, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        label_map = datasets.List(datasets.List(datasets.Value("int64")))
        segment = {"label_id": datasets.Value("int64"), "score": datasets.Value("float64")}
        return evaluate.MetricInfo(
            description="COCO's average precision and recall of masks, and boundary AP.",
            citation=_CITATION,
            inputs_description=InstanceAveragePrecision.__doc__,
            features=datasets.Features(
                {
                    "predictions": {"segmentation": label_map, "segments_info": datasets.List(segment)},
                    "references": {
                        "ids": datasets.List(label_map),
                        "class_ids": datasets.List(datasets.Value("int64")),
                    },
                }
            ),
            reference_urls=["https://cocodataset.org/#detection-eval", "https://bowenc0221.github.io/boundary-iou"],
        )
