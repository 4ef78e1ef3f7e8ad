"""What all metrics share: images by id, states of several processes, and a process group of two."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import perturbed_nuclei

from m2f.evaluation.instance_average_precision import InstanceAveragePrecision
from m2f.evaluation.panoptic_quality import PanopticQuality
from m2f.evaluation.semantic_iou import SemanticIoU

ROOT = Path(__file__).parents[2]
LABELS = {0: "nucleus"}


def add_nuclei(metric, cases):
    """Process each case as the metric takes it."""
    for case in cases:
        segmentation, infos = case.painted()
        prediction = {"segmentation": segmentation, "segments_info": infos}
        if isinstance(metric, SemanticIoU):
            prediction = np.where(segmentation > 0, 0, -1)
        metric.process([prediction], [case.segment_map()], [case.image_id])


@pytest.fixture(scope="module")
def cases() -> list:
    return list(perturbed_nuclei())


METRICS = (PanopticQuality, InstanceAveragePrecision, SemanticIoU)


@pytest.mark.parametrize("kind", METRICS)
def test_merged_states_give_the_result_of_one_process_to_the_last_bit(kind, cases):
    """Ranks take turns and the last batch is filled up with images that another rank has; pickled on the way. Equal
    scores make the average precision depend on the order of the images."""
    cases = [case._replace(scores=case.scores.round(1)) for case in cases]
    alone = kind(LABELS)
    add_nuclei(alone, cases)
    ranks = [kind(LABELS) for _ in range(3)]
    for rank, metric in enumerate(ranks):
        add_nuclei(metric, cases[rank::3] + cases[:rank])
    states = [pickle.loads(pickle.dumps(metric.state())) for metric in ranks]
    merged = kind(LABELS)
    merged.merge(states)
    assert len(merged) == len(cases) < sum(map(len, ranks))
    np.testing.assert_equal(merged.evaluate(), alone.evaluate())
    np.testing.assert_equal(merged.per_class_table(), alone.per_class_table())
    assert len(pickle.dumps(alone.state())) < 10_000 * len(cases)  # no masks


def test_an_image_counts_once_and_the_first_time(cases):
    metric = SemanticIoU(LABELS)
    metric.process([np.array([[0]])], [np.array([[0]])], ["a"])
    metric.process([np.array([[-1]]), np.array([[0]])], [np.array([[0]]), np.array([[0]])], ["a", "b"])
    assert len(metric) == 2 and metric.evaluate()["mIoU"] == 1.0
    other = SemanticIoU(LABELS)
    other.process([np.array([[-1]])], [np.array([[0]])], ["a"])
    metric.merge([other.state()])
    assert metric.evaluate()["mIoU"] == 1.0


def test_images_without_ids_are_different_ones_and_cannot_be_merged():
    metric, other = SemanticIoU(LABELS), SemanticIoU(LABELS)
    for _ in range(2):
        metric.process([np.array([[0]])] * 2, [np.array([[0]])] * 2)
    metric.process([np.array([[0]])], [np.array([[0]])], [0])  # an id of the caller's
    assert len(metric) == 5
    other.merge([metric.state()])  # one process had all of them
    assert len(other) == 5
    with pytest.raises(ValueError, match=r"give image_ids to process\(\)"):
        metric.merge([other.state()])


def test_only_states_of_the_same_metric_and_settings_are_merged():
    metric = SemanticIoU(LABELS)
    for other in (PanopticQuality(LABELS), SemanticIoU({0: "cell"}), SemanticIoU(LABELS, ignore_index=0)):
        with pytest.raises(ValueError, match=f"cannot merge {type(other).__name__} with settings"):
            metric.merge([other.state()])


def test_states_are_no_windows_into_the_metric():
    metric = SemanticIoU(LABELS)
    metric.process([np.array([[0]])], [np.array([[0]])])
    state = metric.state()
    metric.process([np.array([[0]])], [np.array([[0]])])
    assert len(state["images"]) == 1 and len(metric) == 2


def test_evaluate_needs_images_and_the_table_a_result():
    metric = SemanticIoU(LABELS)
    with pytest.raises(ValueError, match=r"call process\(\) first"):
        metric.evaluate()
    metric.process([np.array([[0]])], [np.array([[0]])])
    with pytest.raises(ValueError, match=r"call evaluate\(\) first"):
        metric.per_class_table()
    metric.evaluate()
    assert metric.per_class_table()[0]["class_id"] == 0
    metric.reset()
    with pytest.raises(ValueError, match=r"call evaluate\(\) first"):
        metric.per_class_table()


def test_sequences_of_one_length_are_needed():
    metric = SemanticIoU(LABELS)
    one = [np.array([[0]])]
    with pytest.raises(ValueError, match="1 predictions, 2 targets and 1 image ids"):
        metric.process(one, one * 2, ["a"])
    with pytest.raises(ValueError, match="got a mapping"):
        metric.process({"segmentation": 1, "segments_info": 2}, one * 2)


TWO_PROCESSES = """
import json, sys
import torch.distributed as dist
from evaluation_cases import perturbed_nuclei
from test_streaming_metric import LABELS, METRICS, add_nuclei

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
cases = list(perturbed_nuclei())[:5]  # an odd number: the second rank gets the first image again
metrics = [kind(LABELS) for kind in METRICS]
for metric in metrics:
    add_nuclei(metric, cases[rank::2] + cases[:rank])
results = [metric.evaluate() for metric in metrics]
json.dump([len(metrics[0]), results], open(f"{folder}/{rank}.json", "w"))
dist.destroy_process_group()
"""


def test_two_processes_get_the_result_of_one(cases, tmp_path):
    import json

    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TWO_PROCESSES]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    expected = []
    for kind in METRICS:
        metric = kind(LABELS)
        add_nuclei(metric, cases[:5])
        expected.append(metric.evaluate())
    for rank in range(2):
        images, results = json.loads((tmp_path / f"{rank}.json").read_text())
        assert images == 3  # of its own
        np.testing.assert_equal(results, expected)
