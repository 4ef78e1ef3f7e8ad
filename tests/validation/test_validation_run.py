"""One pass for all tasks: numbers equal those of the written files, read back with the official reader or ours."""

import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from evaluation_data import CATEGORY_OF, colour_reader, write_instances, write_panoptic, write_semantic
from fake_reader import FakeReader
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from shapes_dataset import NAMES

from m2f.data.cityscapes_labels import CLASSES
from m2f.data.coco_panoptic import CocoPanoptic
from m2f.data.dataset_formats import open_dataset
from m2f.data.label_maps import read_channels, read_label_map
from m2f.evaluation.coco_truth import panoptic_target
from m2f.evaluation.mask_rle import encode_masks
from m2f.evaluation.panoptic_quality import PanopticQuality
from m2f.evaluation.semantic_iou import SemanticIoU
from m2f.validation.checkpoint_tasks import Checkpoint, choose_tasks
from m2f.validation.evaluation_batches import TestTimeView
from m2f.validation.evaluation_truth import truth_of
from m2f.validation.validation_run import dataset_numbers, validate


def reader_checkpoint(task: str, shift: int = 1, names=NAMES) -> Checkpoint:
    model = colour_reader(task, shift, names)
    return Checkpoint(model, model.processor)


def measure(checkpoint, dataset, **settings):
    settings = {"batch_size": 1, **settings}
    return validate(checkpoint, dataset, choose_tasks(checkpoint, dataset), Accelerator(cpu=True), **settings)


def coco_average_precision(truth_file, results_file, max_detections=100) -> np.ndarray:
    """AP, AP50, AP75, APs, APm, APl of pycocotools' own evaluation."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_file))
        evaluation = COCOeval(truth, truth.loadRes(str(results_file)), "segm")
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6]


@pytest.mark.parametrize("names", [NAMES, ("blue", "green", "red")])
def test_instances_equal_cocoeval_on_the_written_file(tmp_path, names):
    """Crowds and areas of the json count, which the sample does not have; classes are matched by name."""
    path = write_instances(tmp_path)
    result = measure(reader_checkpoint("instance", names=names), open_dataset(path), output=tmp_path)
    expected = coco_average_precision(path, tmp_path / "instances.json")
    numbers = [result.results["instance"][name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
    assert 0.05 < numbers[0] < 0.95 and result.images == 5
    assert np.nan_to_num(numbers, nan=-1) == pytest.approx(expected, abs=1e-9)
    written = json.loads((tmp_path / "instances.json").read_text())
    assert {entry["category_id"] for entry in written} == set(CATEGORY_OF.values())


def test_a_panoptic_model_gives_three_tasks_from_one_pass(tmp_path):
    path = write_panoptic(tmp_path / "data")
    dataset, checkpoint = open_dataset(path), reader_checkpoint("panoptic")
    result = measure(checkpoint, dataset, output=tmp_path)
    assert list(result.results) == ["panoptic", "instance", "semantic"]
    assert len(checkpoint.model.shapes) == 5
    assert [row["name"] for row in result.per_class["instance"]] == ["red", "green"]
    assert result.results["panoptic"] == pytest.approx(written_panoptic(path, tmp_path), abs=1e-9)
    assert result.results["semantic"] == pytest.approx(written_semantic(dataset, tmp_path), abs=1e-9)
    # The same truth as COCO's instance json, crowd and all, made by hand.
    expected = coco_average_precision(instances_of(path, tmp_path), tmp_path / "instances.json")[:3]
    assert [result.results["instance"][name] for name in ("AP", "AP50", "AP75")] == pytest.approx(expected, abs=1e-9)
    for task, name in (("panoptic", "PQ"), ("instance", "AP"), ("semantic", "mIoU")):
        assert 0.05 < result.results[task][name] < 0.95


def written_panoptic(path, output) -> dict[str, float]:
    """PQ of the json and PNG files, as panopticapi reads them: by image id."""
    dataset = CocoPanoptic(path)
    predicted = json.loads((output / "panoptic.json").read_text())
    pngs = {entry["image_id"]: entry for entry in predicted["annotations"]}
    metric = PanopticQuality(dataset.id2label, dataset.thing_label_ids)
    for truth in json.loads(path.read_text())["annotations"]:
        results = []
        for entry, folder in ((pngs[truth["image_id"]], output / "panoptic"), (truth, path.with_suffix(""))):
            file = folder / entry["file_name"]
            results.append(panoptic_target(read_channels(file, ""), entry["segments_info"], dataset.category_ids))
        metric.process(results[:1], results[1:], [truth["image_id"]])
    return metric.evaluate()


def written_semantic(dataset, output) -> dict[str, float]:
    """mIoU of the PNG files, whose numbers are the categories; a crowd is of its class."""
    metric, truth = SemanticIoU(dataset.id2label), truth_of(dataset)
    for index, image in enumerate(dataset.images):
        labels = np.searchsorted(dataset.category_ids, read_label_map(output / "semantic" / image.file_name, ""))
        metric.process([labels], [truth.semantic(index, dataset[index])])
    return metric.evaluate()


def instances_of(path, output):
    """The instance json that belongs to a panoptic one."""
    from pycocotools import mask as coco_mask

    content = json.loads(path.read_text())
    annotations = []
    for entry in content["annotations"]:
        ids = read_channels(path.with_suffix("") / entry["file_name"], "").astype(int) @ np.array([1, 256, 65536])
        for info in entry["segments_info"]:
            rle = coco_mask.encode(np.asfortranarray(ids == info["id"], dtype=np.uint8))
            area = float(coco_mask.area(rle))
            fields = {"segmentation": {**rle, "counts": rle["counts"].decode()}, "area": area, "bbox": [0, 0, 1, 1]}
            annotation = {**info, "image_id": entry["image_id"], "id": len(annotations) + 1, **fields}
            if info["category_id"] != CATEGORY_OF["blue"]:
                annotations.append(annotation)
    categories = [entry for entry in content["categories"] if entry.get("isthing", 1)]
    truth = output / "truth.json"
    truth.write_text(json.dumps({**content, "annotations": annotations, "categories": categories}))
    return truth


def test_written_panoptic_files_are_a_dataset(tmp_path):
    """Opened with our reader, they are the truth that the same model meets perfectly."""
    checkpoint = reader_checkpoint("panoptic")
    path = write_panoptic(tmp_path / "data")
    measure(checkpoint, open_dataset(path), output=tmp_path)
    again = open_dataset(tmp_path / "panoptic.json", image_folder=tmp_path / "data" / "val")
    result = measure(checkpoint, again)
    assert result.results["panoptic"]["PQ"] == pytest.approx(1, abs=1e-9)
    assert again.thing_label_ids == [0, 1]


def test_a_panoptic_model_on_a_dataset_of_its_things(tmp_path):
    """The paper's AP of panoptic models: the stuff that they find is no answer to anything."""
    path = write_instances(tmp_path)
    content = json.loads(path.read_text())
    content["categories"] = [entry for entry in content["categories"] if entry["name"] != "blue"]
    things = [entry["id"] for entry in content["categories"]]
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] in things]
    path.write_text(json.dumps(content))
    result = measure(
        reader_checkpoint("panoptic", names=("blue", "red", "green")), open_dataset(path), output=tmp_path
    )
    expected = coco_average_precision(path, tmp_path / "instances.json")[0]
    assert list(result.results) == ["instance"]
    assert result.results["instance"]["AP"] == pytest.approx(expected, abs=1e-9) and 0.05 < expected < 0.95


def test_semantic_maps_are_written_with_the_datasets_labels(tmp_path):
    dataset = open_dataset(write_semantic(tmp_path / "data"), "val")
    result = measure(reader_checkpoint("semantic"), dataset, output=tmp_path)
    metric = SemanticIoU(dataset.id2label)
    for sample in dataset:
        file = tmp_path / "semantic" / sample.name
        metric.process([read_label_map(file, "")], [sample.segments])
        assert Image.open(file).mode == "L"
    assert result.results["semantic"] == pytest.approx(metric.evaluate(), abs=1e-9)
    assert 0.05 < result.results["semantic"]["mIoU"] < 0.95


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_no_batch_size_changes_a_number(tmp_path, task):
    """Images of 64 and 96 pixels, so that batches in the dataset's order would be padded."""
    write = {"panoptic": write_panoptic, "instance": write_instances, "semantic": write_semantic}[task]
    dataset = open_dataset(write(tmp_path), "val")
    results = []
    for batch_size in (1, 2, 5):
        checkpoint = reader_checkpoint(task)
        results.append(measure(checkpoint, dataset, batch_size=batch_size))
        assert not any(checkpoint.model.has_padding)
    assert len(checkpoint.model.shapes) < 5
    for other in results[1:]:
        for name, numbers in other.results.items():
            assert numbers == pytest.approx(results[0].results[name], abs=1e-9, nan_ok=True)


def test_views_see_the_image_in_other_sizes_and_mirrored(tmp_path):
    """The reader's error is a move to the right; in a mirrored image it is one to the left."""
    dataset = open_dataset(write_semantic(tmp_path), "val")
    plain, mirrored = (measure(reader_checkpoint("semantic"), dataset, views=views) for views in (FLIPS[:1], FLIPS))
    both = reader_checkpoint("semantic")
    both.processor.do_resize, both.processor.size = True, type(both.processor.size)(height=64, width=64)
    measure(both, dataset, views=[TestTimeView(0.5), TestTimeView(1.0), TestTimeView(1.5, True)], batch_size=5)
    assert [shape[-2:] for shape in both.model.shapes[:3]] == [(32, 32), (64, 64), (96, 96)]
    assert mirrored.results["semantic"]["mIoU"] != pytest.approx(plain.results["semantic"]["mIoU"], abs=1e-3)


FLIPS = [TestTimeView(), TestTimeView(flipped=True)]


def test_a_model_without_error_gains_nothing_from_flips(tmp_path):
    """Mirrored back, its scores are those of the image itself."""
    dataset = open_dataset(write_semantic(tmp_path), "val")
    once, twice = (measure(reader_checkpoint("semantic", 0), dataset, views=views) for views in (FLIPS[:1], FLIPS))
    assert once.results["semantic"] == pytest.approx(twice.results["semantic"], abs=1e-9)
    assert once.results["semantic"]["mIoU"] > 0.9


def test_views_are_for_semantic_alone(tmp_path):
    with pytest.raises(ValueError, match="task semantic alone, not for instance"):
        measure(reader_checkpoint("instance"), open_dataset(write_instances(tmp_path)), views=FLIPS)


def test_max_detections_limits_predictions_and_recall(tmp_path):
    path = write_instances(tmp_path)
    result = measure(reader_checkpoint("instance"), open_dataset(path), output=tmp_path, max_detections=2)
    written = json.loads((tmp_path / "instances.json").read_text())
    assert max(sum(entry["image_id"] == image_id for entry in written) for image_id in range(96, 101)) == 2
    assert set(result.results["instance"]) >= {"AR1", "AR2"} and "AR10" not in result.results["instance"]


def test_a_broken_image_is_left_out_of_numbers_and_files(tmp_path):
    path = write_instances(tmp_path)
    (tmp_path / "val" / "train-2.png").write_bytes(b"no image")
    dataset = open_dataset(path)
    with pytest.raises(ValueError, match="train-2.png of the evaluation cannot be read"):
        measure(reader_checkpoint("instance"), dataset)
    result = measure(reader_checkpoint("instance"), dataset, skip_broken=True, output=tmp_path, batch_size=2)
    assert result.images == 4
    assert {entry["image_id"] for entry in json.loads((tmp_path / "instances.json").read_text())} == {96, 97, 99, 100}


def test_predictions_of_another_kind_are_counted_in_place_of_the_models(tmp_path):
    """The truth itself, with the labels of a model that has the dataset's classes in another order."""
    path = write_instances(tmp_path)
    dataset, checkpoint = open_dataset(path), reader_checkpoint("instance", names=("blue", "green", "red"))
    seen = []

    def predict(image):
        sample = dataset[len(seen)]
        assert image.size == sample.image.size
        seen.append(image)
        masks, labels = sample.segments.masks(), sample.segments.class_ids
        infos = [{"id": i, "label_id": 2 - int(label), "score": 0.9} for i, label in enumerate(labels)]
        return {"instance": {"segmentation": encode_masks(masks), "segments_info": infos}}

    result = measure(checkpoint, dataset, predict=predict, batch_size=3, output=tmp_path)
    assert result.images == len(seen) == 5 and not checkpoint.model.shapes
    assert result.results["instance"]["AP"] == pytest.approx(
        coco_average_precision(path, tmp_path / "instances.json")[0]
    )
    assert result.results["instance"]["AP"] > 0.8


def test_predictions_of_another_kind_are_not_for_views_nor_sharded_models(tmp_path):
    dataset = open_dataset(write_semantic(tmp_path), "val")
    with pytest.raises(ValueError, match="sees as a whole"):
        measure(reader_checkpoint("semantic"), dataset, predict=dict, views=FLIPS)
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)
    with pytest.raises(ValueError, match="sharded model"):
        validate(reader_checkpoint("semantic"), dataset, ["semantic"], accelerator, predict=dict)


def test_an_empty_split_is_an_error():
    with pytest.raises(ValueError, match="split 'val' has no image"):
        measure(reader_checkpoint("instance"), FakeReader([], dict(enumerate(NAMES)), "val"))


def test_numbers_of_a_dataset():
    """Cityscapes' own label ids: road is 7 and bicycle 33 in its published table."""
    dataset = FakeReader([], {i: label.name for i, label in enumerate(CLASSES)})
    assert dataset_numbers(dataset) == list(range(19))
    dataset.format = "cityscapes"
    assert (dataset_numbers(dataset)[0], dataset_numbers(dataset)[18]) == (7, 33)
    dataset.category_ids = [1] * 19
    dataset.format = "coco-instance"
    assert dataset_numbers(dataset) == [1] * 19
    del dataset.category_ids
    dataset.label_values = list(range(1, 20))
    assert dataset_numbers(dataset) == list(range(1, 20))


def test_gradients_and_mode_are_left_alone(tmp_path):
    checkpoint = reader_checkpoint("instance")
    measure(checkpoint, open_dataset(write_instances(tmp_path)))
    assert torch.is_grad_enabled() and checkpoint.model.training
