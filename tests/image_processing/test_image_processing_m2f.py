import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

import m2f  # noqa: F401  (registers the classes)
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
TALL = RNG.integers(0, 256, (70, 40, 3), dtype=np.uint8)


def test_normalisation_equals_that_of_the_original():
    # PIXEL_MEAN and PIXEL_STD of the original's configurations, on 0..255
    batch = M2FImageProcessor(do_resize=False)(PHOTO, return_tensors="pt")
    expected = (PHOTO - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    region = batch["pixel_values"][0, :, :48, :64]
    np.testing.assert_allclose(region.permute(1, 2, 0).numpy(), expected, atol=2e-6)
    assert region.dtype == torch.float32


def test_pixels_equal_those_of_transformers_where_nothing_is_stretched():
    settings = {"size": {"height": 96, "width": 64}}
    ours, theirs = (
        cls(**settings)(PHOTO, return_tensors="pt") for cls in (M2FImageProcessor, Mask2FormerImageProcessorPil)
    )
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], atol=1e-5, rtol=0)
    assert torch.equal(ours["pixel_mask"], theirs["pixel_mask"])


def test_resizing_is_pil_bilinear():
    batch = M2FImageProcessor(size=30, do_rescale=False, do_normalize=False, do_pad=False)(PHOTO, return_tensors="np")
    expected = np.asarray(Image.fromarray(PHOTO).resize((40, 30), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(batch["pixel_values"][0].transpose(1, 2, 0), expected)
    batch = M2FImageProcessor(size=30, do_rescale=False, do_normalize=False, do_pad=False)(
        PHOTO, return_tensors="np", resample=0
    )
    expected = np.asarray(Image.fromarray(PHOTO).resize((40, 30), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(batch["pixel_values"][0].transpose(1, 2, 0), expected)


def test_padding_is_zero_after_normalisation_to_a_multiple_of_32():
    batch = M2FImageProcessor(do_resize=False)([PHOTO, TALL], return_tensors="pt")
    assert list(batch) == ["pixel_values", "pixel_mask"]
    assert batch["pixel_values"].shape == (2, 3, 96, 64) and batch["pixel_mask"].dtype == torch.int64
    for index, (height, width) in enumerate([(48, 64), (70, 40)]):
        expected = torch.zeros(96, 64, dtype=torch.int64)
        expected[:height, :width] = 1
        assert torch.equal(batch["pixel_mask"][index], expected)
        assert not batch["pixel_values"][index][:, expected == 0].any()


def test_batch_equals_each_image_alone():
    processor = M2FImageProcessor(size={"shortest_edge": 50, "longest_edge": 80})
    maps = [PHOTO[:, :, 0] // 64, TALL[:, :, 0] // 64]
    batch = processor([PHOTO, TALL], maps, return_tensors="pt")
    for index, image in enumerate((PHOTO, TALL)):
        alone = processor(image, maps[index], return_tensors="pt")
        height, width = alone["pixel_values"].shape[-2:]
        assert torch.equal(batch["pixel_values"][index, :, :height, :width], alone["pixel_values"][0])
        assert torch.equal(batch["pixel_mask"][index, :height, :width], alone["pixel_mask"][0])
        assert torch.equal(batch["mask_labels"][index][:, :height, :width], alone["mask_labels"][0])
        assert torch.equal(batch["class_labels"][index], alone["class_labels"][0])
        assert batch["pixel_mask"][index].sum() == alone["pixel_mask"][0].sum()


def test_mask_labels_cover_the_image_and_nothing_else():
    processor = M2FImageProcessor(size=50)
    batch = processor([PHOTO, TALL], [PHOTO[:, :, 0] // 64, TALL[:, :, 0] // 64], return_tensors="pt")
    assert list(batch)[0] == "pixel_values"
    for masks, pixel_mask in zip(batch["mask_labels"], batch["pixel_mask"], strict=True):
        assert masks.dtype == torch.uint8 and torch.equal(masks.sum(0), pixel_mask)


@pytest.mark.parametrize(
    ("kwargs", "shape"),
    [
        ({}, (1, 3, 800, 1088)),  # 800 x 1067
        ({"size": 100}, (1, 3, 128, 160)),  # 100 x 133
        ({"size": {"shortest_edge": 100, "longest_edge": 120}}, (1, 3, 96, 128)),  # 90 x 120
        ({"size": {"height": 33, "width": 20}}, (1, 3, 64, 32)),
        ({"size": (33, 20)}, (1, 3, 64, 32)),
        ({"do_resize": False}, (1, 3, 64, 64)),
        ({"do_resize": False, "size_divisor": 1}, (1, 3, 48, 64)),
        ({"do_resize": False, "size_divisor": 0}, (1, 3, 48, 64)),
        ({"do_resize": False, "size_divisor": 50}, (1, 3, 50, 100)),
        ({"do_resize": False, "do_pad": False}, (1, 3, 48, 64)),
        ({"do_resize": False, "pad_size": {"height": 99, "width": 77}}, (1, 3, 99, 77)),
    ],
)
@pytest.mark.parametrize("at_call", [True, False])
def test_sizes(kwargs, shape, at_call):
    processor = M2FImageProcessor() if at_call else M2FImageProcessor(**kwargs)
    batch = processor(PHOTO, return_tensors="pt", **(kwargs if at_call else {}))
    assert batch["pixel_values"].shape == shape and batch["pixel_mask"].shape == (1, *shape[2:])


def test_steps_can_be_switched_off():
    off = {"do_resize": False, "do_pad": False}
    plain = M2FImageProcessor(**off, do_rescale=False, do_normalize=False)(PHOTO, return_tensors="np")["pixel_values"][
        0
    ]
    np.testing.assert_array_equal(plain.transpose(1, 2, 0), PHOTO)
    rescaled = M2FImageProcessor(**off, do_normalize=False)(PHOTO, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(rescaled.transpose(1, 2, 0), PHOTO / 255, rtol=1e-6)
    normalised = M2FImageProcessor(**off, do_rescale=False, image_mean=[1, 2, 3], image_std=2.0)(
        PHOTO, return_tensors="np"
    )
    np.testing.assert_allclose(
        normalised["pixel_values"][0].transpose(1, 2, 0), (PHOTO - [1.0, 2.0, 3.0]) / 2, rtol=1e-6
    )


def test_kinds_of_output():
    maps = PHOTO[:, :, 0] // 64
    processor = M2FImageProcessor(size=40)
    as_lists, as_arrays, as_tensors = (processor([PHOTO], [maps], return_tensors=kind) for kind in (None, "np", "pt"))
    assert isinstance(as_arrays["pixel_values"], np.ndarray) and isinstance(as_arrays["mask_labels"][0], np.ndarray)
    for name in as_tensors:
        tensors = [torch.as_tensor(item) for item in as_arrays[name]]
        assert len(tensors) == len(as_lists[name]) == len(as_tensors[name]) == 1
        assert torch.equal(tensors[0], as_lists[name][0]) and torch.equal(tensors[0], as_tensors[name][0])


def test_device_places_every_output():
    batch = M2FImageProcessor(size=40)([PHOTO], [PHOTO[:, :, 0] // 64], device="meta")
    assert {item[0].device.type for item in batch.values()} == {"meta"}


def test_unpadded_images_of_different_sizes_are_no_batch():
    processor = M2FImageProcessor(do_resize=False, do_pad=False)
    assert [item.shape for item in processor([PHOTO, TALL])["pixel_values"]] == [(3, 48, 64), (3, 70, 40)]
    with pytest.raises(ValueError, match=r"\(3, 48, 64\), \(3, 70, 40\).*do_pad"):
        processor([PHOTO, TALL], return_tensors="pt")


@pytest.mark.parametrize(
    ("kwargs", "error", "found"),
    [
        ({"sise": 800}, TypeError, "sise"),
        ({"task": "stuff"}, ValueError, "panoptic, instance, semantic.*'stuff'"),
        ({"thing_label_ids": [3, -1]}, ValueError, "-1"),
        ({"panoptic_threshold": 80.0}, ValueError, "80.0"),
        ({"size": {"height": 3, "width": 3}, "max_size": 5}, ValueError, "max_size"),
    ],
)
def test_bad_settings_are_named(kwargs, error, found):
    with pytest.raises(error, match=found):
        M2FImageProcessor(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "error", "found"),
    [
        ({"sise": 800}, TypeError, "sise"),
        ({"do_center_crop": True, "crop_size": 5}, ValueError, "do_center_crop"),
        ({"data_format": "channels_last"}, ValueError, "channels_last"),
        ({"return_tensors": "mlx"}, ValueError, "mlx"),
        ({"pad_size": {"height": 40, "width": 900}, "do_resize": False}, ValueError, "48 x 64.*pad_size 40 x 900"),
    ],
)
def test_bad_call_is_named(kwargs, error, found):
    with pytest.raises(error, match=found):
        M2FImageProcessor()(PHOTO, **kwargs)


def test_former_names():
    former = M2FImageProcessor(
        size=480, max_size=640, reduce_labels=True, size_divisibility=16, pad_and_return_pixel_mask=False
    )
    assert dict(former.size) == {"shortest_edge": 480, "longest_edge": 640}
    assert (former.do_reduce_labels, former.size_divisor, former.do_pad) == (True, 16, False)
    assert "max_size" not in former.to_dict() and "reduce_labels" not in former.to_dict()
    at_call = M2FImageProcessor()(PHOTO, max_size=400, size_divisibility=1, return_tensors="pt")
    assert at_call["pixel_values"].shape == (1, 3, 300, 400)
    labels = M2FImageProcessor()(PHOTO, PHOTO[:, :, 0] // 64, reduce_labels=True)["class_labels"]
    assert labels[0].tolist() == [0, 1, 2]


SETTINGS = {
    "size": {"shortest_edge": 320, "longest_edge": 640},
    "task": "semantic",
    "thing_label_ids": [1, 3],
    "ignore_index": 255,
    "do_reduce_labels": True,
    "num_labels": 7,
    "panoptic_threshold": 0.0,
    "size_divisor": 16,
    "do_pad": False,
    "image_mean": [0.1, 0.2, 0.3],
}


def test_save_and_load(tmp_path):
    saved = M2FImageProcessor(**SETTINGS)
    saved.save_pretrained(tmp_path)
    for loaded in (M2FImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is M2FImageProcessor
        assert loaded.to_dict() == saved.to_dict()
        for name, value in SETTINGS.items():
            found = getattr(loaded, name)
            assert (dict(found) if name == "size" else list(found) if name == "image_mean" else found) == value
    assert M2FImageProcessor.from_pretrained(tmp_path / "preprocessor_config.json").to_dict() == saved.to_dict()
    changed = M2FImageProcessor.from_pretrained(tmp_path, task="instance", max_size=700)
    assert changed.task == "instance" and dict(changed.size) == {"shortest_edge": 320, "longest_edge": 700}


def test_loading_keeps_no_auto_map(tmp_path):
    M2FImageProcessor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoImageProcessor": "a.B"}}))
    M2FImageProcessor.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert "auto_map" not in (tmp_path / "again" / "preprocessor_config.json").read_text()


def test_task_and_things_come_from_the_model_config_where_the_processor_lacks_them(tmp_path):
    fields = {"image_processor_type": "M2FImageProcessor", "size_divisor": 16}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    loaded = M2FImageProcessor.from_pretrained(tmp_path)
    assert (loaded.task, loaded.thing_label_ids, loaded.size_divisor) == ("panoptic", None, 16)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "m2f", "task": "instance", "thing_label_ids": [4]})
    )
    for source in (tmp_path, tmp_path / "preprocessor_config.json", str(tmp_path)):
        loaded = M2FImageProcessor.from_pretrained(source)
        assert (loaded.task, loaded.thing_label_ids, loaded.size_divisor) == ("instance", [4], 16)
    assert M2FImageProcessor.from_pretrained(tmp_path, task="semantic").task == "semantic"
    M2FImageProcessor(task="semantic").save_pretrained(tmp_path)
    loaded = M2FImageProcessor.from_pretrained(tmp_path)
    assert (loaded.task, loaded.thing_label_ids) == ("semantic", None)


def test_from_model_config():
    class Config:
        task = "semantic"
        thing_label_ids = [2]

    processor = M2FImageProcessor.from_model_config(Config, size=7)
    assert (processor.task, processor.thing_label_ids, dict(processor.size)) == ("semantic", [2], {"shortest_edge": 7})
    assert M2FImageProcessor.from_model_config(Config, task="instance").task == "instance"
    assert M2FImageProcessor.from_model_config(object()).task == "panoptic"  # transformers' configuration has none


def test_file_of_transformers_processor(tmp_path):
    peer = Mask2FormerImageProcessorPil(
        size={"shortest_edge": 320, "longest_edge": 500}, ignore_index=255, num_labels=19
    )
    peer.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    stored = {**json.loads(file.read_text()), "_max_size": 2048, "some_field": [1], "crop_size": None, "max_size": 640}
    file.write_text(json.dumps(stored))
    loaded = M2FImageProcessor.from_pretrained(tmp_path)
    assert dict(loaded.size) == {"shortest_edge": 320, "longest_edge": 640}
    assert (loaded.ignore_index, loaded.size_divisor, loaded.task) == (255, 32, "panoptic")
    # never read by transformers, so not to be trusted: a fine-tune has other labels
    assert loaded.num_labels is None
    assert not hasattr(loaded, "some_field")
    batch = loaded([PHOTO], [PHOTO[:, :, 0]], return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 320, 448)  # 320 x 427


def test_reference_row_04_the_released_squash_is_warned_about(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("m2f.image_processing.image_processing_m2f.logger.warning_once", warnings.append)
    fields = {
        "image_processor_type": "Mask2FormerImageProcessor",
        "size": {"height": 384, "width": 384},
        "max_size": 9,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    assert dict(M2FImageProcessor.from_pretrained(tmp_path).size) == {"height": 384, "width": 384}
    assert "384 x 384" in warnings[0]
    loaded = M2FImageProcessor.from_pretrained(tmp_path, size={"shortest_edge": 800, "longest_edge": 1333})
    assert dict(loaded.size) == {"shortest_edge": 800, "longest_edge": 1333}
    assert dict(M2FImageProcessor().size) == {"shortest_edge": 800, "longest_edge": 1333}
