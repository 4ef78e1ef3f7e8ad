"""A saved folder through transformers' Auto classes and its segmentation pipeline."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from small_models import BACKBONES, small_model
from transformers import AutoConfig, AutoModel, AutoModelForUniversalSegmentation, pipeline

# transformers 5.17 without torchvision exports a dummy under transformers.AutoImageProcessor.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import m2f
from m2f.inference.segmenter import Segmenter

LABELS = {0: "person", 1: "car", 2: "sky", 3: "road", 4: "tree"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    model = small_model("swin", id2label=LABELS, thing_label_ids=[0, 1])
    _make_confident(model, seed=6)
    model.save_pretrained(path)
    m2f.M2FImageProcessor.from_model_config(
        model.config, size={"shortest_edge": 64, "longest_edge": 128}
    ).save_pretrained(path)
    return path


def _make_confident(model, seed: int):
    """Sure classes and contrasting masks: with the seed above, a thing and stuff (found by trying seeds). All is
    drawn anew, since transformers 5.17 draws initial weights in another order."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith("bias") and "sampling_offsets" not in name:
                parameter.zero_()
        model.class_predictor.weight.mul_(20)
        for layer in model.model.transformer_module.decoder.mask_predictor.mask_embedder:
            layer[0].weight.mul_(3)


@pytest.fixture
def errors(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logger.removeHandler(caplog.handler)


def picture(width: int = 90, height: int = 61) -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (height // 8 + 1, width // 8 + 1, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((width, height))


def test_auto_classes_load_a_saved_folder(folder, errors):
    assert type(AutoConfig.from_pretrained(folder)) is m2f.M2FConfig
    assert type(AutoModel.from_pretrained(folder)) is m2f.M2FModel
    assert type(AutoModelForUniversalSegmentation.from_pretrained(folder)) is m2f.M2FForUniversalSegmentation
    assert type(AutoImageProcessor.from_pretrained(folder)) is m2f.M2FImageProcessor
    assert errors() == []


@pytest.mark.parametrize("subtask", [None, "panoptic", "instance", "semantic"])
def test_the_pipeline_runs_from_a_folder_without_a_complaint(folder, subtask, errors):
    segmenter = pipeline("image-segmentation", model=str(folder))
    segments = segmenter(picture(), subtask=subtask, threshold=0.1)
    assert errors() == []
    assert segments and all(segment["mask"].size == (90, 61) for segment in segments)
    assert {segment["label"] for segment in segments} <= set(LABELS.values())


def test_the_pipeline_computes_what_model_and_processor_compute(folder):
    """Its outputs reach post-processing as a plain ModelOutput; the image's valid size must come along."""
    segmenter = pipeline("image-segmentation", model=str(folder))
    segments = segmenter(picture(), subtask="panoptic", threshold=0.1)
    processor, model = segmenter.image_processor, segmenter.model
    with torch.no_grad():
        outputs = model(**processor(images=[picture()], return_tensors="pt"))
    assert outputs.valid_sizes.tolist() == [[64, 94]]  # 90 * 64 / 61 = 94.4
    (expected,) = processor.post_process_panoptic_segmentation(
        outputs, threshold=0.1, overlap_mask_area_threshold=0.5, target_sizes=[(61, 90)]
    )
    assert len(segments) == len(expected["segments_info"]) > 1
    for segment, info in zip(segments, expected["segments_info"], strict=True):
        assert segment["label"] == LABELS[info["label_id"]]
        mask = torch.tensor(bytearray(segment["mask"].tobytes())).view(61, 90) > 0
        assert torch.equal(mask, expected["segmentation"] == info["id"])


def test_the_pipeline_takes_a_model_of_one_channel_for_grey_images(tmp_path, errors):
    """It makes RGB of every image, of which the processor takes one channel where they are equal."""
    fields = {**BACKBONES["resnet"], "num_channels": 1}
    model = small_model(backbone_config=fields, id2label=LABELS, encoder_layers=1, decoder_layers=2)
    model.save_pretrained(tmp_path)
    processor = m2f.M2FImageProcessor(size={"height": 64, "width": 64}, num_channels=1)
    processor.save_pretrained(tmp_path)
    segmenter = pipeline("image-segmentation", model=str(tmp_path))
    grey = picture().convert("L")
    segments = segmenter(grey, subtask="semantic")
    with torch.no_grad():
        outputs = model(**processor(images=[grey], return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(61, 90)])
    assert {segment["label"] for segment in segments} == {LABELS[int(label)] for label in expected.unique()}
    for segment in segments:
        mask = torch.tensor(bytearray(segment["mask"].tobytes())).view(61, 90) > 0
        assert torch.equal(mask, expected == next(i for i, name in LABELS.items() if name == segment["label"]))
    assert errors() == []
    with pytest.raises(ValueError, match="3 channels, and 1 is expected"):
        segmenter(picture())


def test_the_pipeline_runs_in_batches(folder):
    """Items are taken out of a batch by their first index, so every output must have the batch first."""
    segmenter = pipeline("image-segmentation", model=str(folder))
    pictures = [picture(), picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    alone = [segmenter(image, threshold=0.1) for image in pictures]
    together = segmenter(pictures, threshold=0.1, batch_size=2)
    for expected, actual in zip(alone, together, strict=True):
        assert [segment["label"] for segment in actual] == [segment["label"] for segment in expected]
        for one, other in zip(expected, actual, strict=True):
            difference = [a != b for a, b in zip(one["mask"].tobytes(), other["mask"].tobytes(), strict=True)]
            assert sum(difference) <= 5  # of 5490 pixels: rounding differs between batch sizes


def test_eight_threads_get_from_one_pipeline_and_one_segmenter_what_one_thread_gets(folder):
    segmenter, segments = (
        Segmenter.from_pretrained(str(folder), device="cpu"),
        pipeline("image-segmentation", str(folder)),
    )

    def found(width: int):
        result = segmenter(picture(width))
        ids = [(segment.label_id, segment.score, segment.area) for segment in result.segments]
        others = segments(picture(width), threshold=0.1)
        return ids, [(segment["label"], segment["score"], segment["mask"].tobytes()) for segment in others]

    widths = list(range(61, 125, 4))
    expected = [found(width) for width in widths]
    assert any(ids for ids, _ in expected) and any(others for _, others in expected)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found, widths)) == expected


def test_registering_twice_does_no_harm(folder):
    from m2f.auto import register_auto_classes

    register_auto_classes()
    assert type(AutoConfig.from_pretrained(folder)) is m2f.M2FConfig
