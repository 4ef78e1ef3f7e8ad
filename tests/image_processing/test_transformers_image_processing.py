"""transformers' own common tests of image processors, run on ours, and what those of its Mask2Former ask beside them.

tests/modeling_m2f/test_transformers_mask2former.py runs the latter themselves, where they can be found.
"""

import unittest

import numpy as np
import pytest
import torch
from PIL import Image
from transformers_tests import import_tests, skip

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.resize_rule import resized_size
from m2f.modeling_m2f.outputs import M2FForUniversalSegmentationOutput

common = import_tests("test_image_processing_common")
if not hasattr(common, "ImageProcessingTester"):
    pytest.skip("this version of transformers has no tester that ours could be like", allow_module_level=True)
NO_BACKENDS = "ours has one class, for all machines"


class M2FImageProcessingTester(common.ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        fields = {
            "batch_size": 2,
            "size": {"shortest_edge": 32, "longest_edge": 1333},
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "size_divisor": 0,
            "do_reduce_labels": True,
            "ignore_index": 255,
        }
        super().__init__(parent, **{**fields, **kwargs})
        self.num_classes = 5

    def _get_image_processing_classes(self):
        # Asked what is asked of transformers' standard class, which is that of the torchvision backend.
        return {"torchvision": M2FImageProcessor}

    def expected_output_image_shape(self, images):
        """Sizes are rounded half up, which transformers truncates."""
        sizes = [resized_size(self._size(image), self.size) for image in images]
        return 3, *(max(edges) for edges in zip(*sizes, strict=True))

    @staticmethod
    def _size(image) -> tuple[int, int]:
        if isinstance(image, torch.Tensor):
            return tuple(image.shape[1:])
        return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]

    def outputs(self) -> M2FForUniversalSegmentationOutput:
        """Random ones of inputs of 128 x 128, with class 1 for the first three queries."""
        torch.manual_seed(0)
        class_logits = torch.randn(self.batch_size, 8, self.num_classes + 1)
        class_logits[:, :3, 1] += 10
        masks = torch.randn(self.batch_size, 8, 32, 32)
        return M2FForUniversalSegmentationOutput(class_queries_logits=class_logits, masks_queries_logits=masks)

    def prepare_post_process_semantic_segmentation_inputs(self):
        """Masks of a quarter of the inputs' size, where transformers resizes any to 384 x 384."""
        return {"outputs": self.outputs()}, {"num_labels": self.num_classes, "height": 128, "width": 128}


class M2FImageProcessingTest(
    common.ImageProcessingTestMixin, common.PostProcessSemanticSegmentationTestMixin, unittest.TestCase
):
    image_processor_tester_class = M2FImageProcessingTester
    test_cast_dtype = True

    def setUp(self):
        np.random.seed(0)
        super().setUp()

    @property
    def processor(self) -> M2FImageProcessor:
        return M2FImageProcessor(**self.image_processor_dict)

    def test_fields_have_the_names_and_values_that_were_given(self):
        processor = M2FImageProcessor.from_dict(self.image_processor_dict)
        assert processor.size == {"shortest_edge": 32, "longest_edge": 1333} and processor.size_divisor == 0
        for name in ("image_mean", "image_std", "do_normalize", "do_resize", "ignore_index", "num_labels"):
            assert hasattr(processor, name)
        changed = M2FImageProcessor.from_dict(self.image_processor_dict, size=42, max_size=84, size_divisibility=8)
        assert changed.size == {"shortest_edge": 42, "longest_edge": 84} and changed.size_divisor == 8

    def test_former_names_of_settings_are_read(self):
        fields = {key: value for key, value in self.image_processor_dict.items() if key != "do_reduce_labels"}
        for processor in (
            M2FImageProcessor(**fields, reduce_labels=True),
            M2FImageProcessor.from_dict(fields | {"reduce_labels": True}),
        ):
            assert processor.do_reduce_labels is True

    def test_sizes_are_multiples_of_the_divisor(self):
        for divisor in (8, 16, 32):
            for size in ((407, 802), (582, 1094)):
                values = self.processor(np.ones((3, *size)), size_divisor=divisor, return_tensors="pt")["pixel_values"]
                assert values.shape[-1] % divisor == values.shape[-2] % divisor == 0

    def test_targets_have_the_sizes_and_classes_of_their_maps(self):
        images = self.image_processor_tester.prepare_image_inputs(numpify=True)
        for one_channel in (False, True):
            for as_pil in (False, True):
                for classes_of in (None, {id_: id_ % 10 for id_ in range(20)}):
                    self._check_targets(images, one_channel, as_pil, classes_of)

    def _check_targets(self, images, one_channel, as_pil, classes_of):
        maps = [np.random.randint(0, 20, image.shape[:2]).astype(np.uint8) for image in images]
        given = [image[..., :1] if one_channel else image for image in images]
        given_maps = [Image.fromarray(label_map) for label_map in maps] if as_pil else maps
        inputs = self.processor(given, given_maps, classes_of, return_tensors="pt")
        for masks, classes, label_map in zip(inputs["mask_labels"], inputs["class_labels"], maps, strict=True):
            assert masks.shape == (len(classes), *inputs["pixel_values"].shape[2:])
            allowed = set(label_map.ravel().tolist())
            allowed = {classes_of[id_] for id_ in allowed} if classes_of else allowed
            assert {int(label) + 1 for label in classes} <= allowed - {0}

    def test_channels_that_cannot_be_found_or_shown_are_refused(self):
        with pytest.raises(ValueError, match="5 channels were found"):
            self.processor(np.zeros((40, 50, 5), np.uint8))
        with pytest.raises(ValueError, match="1, 3 or 4, channels_last"):
            self.processor(np.zeros((40, 50, 2), np.uint8), input_data_format="channels_last")

    def test_instances_are_a_map_or_masks_and_a_list_of_segments(self):
        outputs = self.image_processor_tester.outputs()
        for return_binary_maps in (False, True):
            results = self.processor.post_process_instance_segmentation(
                outputs, threshold=0, return_binary_maps=return_binary_maps
            )
            assert len(results) == 2
            for result in results:
                assert type(result["segments_info"]) is list
                assert result["segmentation"].shape[-2:] == (128, 128)
                assert result["segmentation"].ndim == 2 + return_binary_maps

    def test_panoptic_segments_of_a_fused_label_are_one(self):
        options = {"threshold": 0, "mask_threshold": 0, "overlap_mask_area_threshold": 0}
        outputs = self.image_processor_tester.outputs()
        apart = self.processor.post_process_panoptic_segmentation(outputs, label_ids_to_fuse=set(), **options)
        fused = self.processor.post_process_panoptic_segmentation(outputs, label_ids_to_fuse={1}, **options)
        assert any(sum(segment["label_id"] == 1 for segment in one["segments_info"]) > 1 for one in apart)
        for one, other in zip(apart, fused, strict=True):
            assert one["segmentation"].shape == other["segmentation"].shape == (128, 128)
            labels = [segment["label_id"] for segment in one["segments_info"]]
            expected = len(labels) - max(labels.count(1) - 1, 0)
            assert max(segment["id"] for segment in other["segments_info"]) == expected


skip(
    M2FImageProcessingTest,
    {
        "test_backends_equivalence": NO_BACKENDS,
        "test_backends_equivalence_batched": NO_BACKENDS,
        "test_save_load_backends": NO_BACKENDS,
        "test_save_load_backends_auto": NO_BACKENDS,
        "test_pil_can_run_without_torchvision": NO_BACKENDS,
        "test_call_numpy_4_channels": "the processor makes RGB; do_convert_rgb=False refuses what is not RGB",
        "test_override_instance_attributes_does_not_affect_other_instances": "for lists and dicts; ours are neither",
        "test_image_processor_preprocess_arguments": "checked by type, and by test_image_processing_m2f.py",
    },
)
