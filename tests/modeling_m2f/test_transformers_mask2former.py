"""transformers' own tests of its Mask2Former (tests/models/mask2former), run on our classes.

The source distribution lacks them: M2F_TRANSFORMERS_SOURCE names a checkout of transformers' repository, best of the
version that is installed. Each test that ours cannot pass is named below with the reason.
"""

import numpy as np
import torch
import transformers_tests

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.resize_rule import resized_size
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel

images = transformers_tests.import_tests("models.mask2former.test_image_processing_mask2former")
models = transformers_tests.import_tests("models.mask2former.test_modeling_mask2former")

NETWORK = "needs files of the Hub"
SKIPPED_OF_PROCESSOR = {
    "test_binary_mask_to_rle": "a function of transformers' module; ours writes COCO's own run lengths (pycocotools)",
    "test_call_numpy_4_channels": "the processor makes RGB; do_convert_rgb=False refuses what is not RGB",
    "test_call_with_segmentation_maps": "images of 2 and 5 channels, which ours refuses, and num_labels, which "
    "transformers does not read; the rest is asked in tests/image_processing/test_transformers_image_processing.py",
    "test_integration_instance_segmentation": NETWORK,
    "test_integration_panoptic_segmentation": NETWORK,
    "test_integration_semantic_segmentation": NETWORK,
}
SKIPPED_OF_MODEL = {
    "test_model_with_labels": "random numbers as masks; ours refuses what is not in [0, 1]",
}


class ImageProcessingTester(images.Mask2FormerImageProcessingTester):
    """With sizes rounded half up, which transformers truncates, and mask logits of the 384 x 384 that it resizes any
    to: 4 times those of the model."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.height = self.width = 96

    def get_expected_values(self, image_inputs, batched=False):
        sizes = [resized_size(self._size(image), self.size) for image in image_inputs]
        return tuple(max(edges) for edges in zip(*(sizes if batched else sizes[:1]), strict=True))

    @staticmethod
    def _size(image) -> tuple[int, int]:
        if isinstance(image, torch.Tensor):
            return tuple(image.shape[1:])
        return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]


class ModelTester(models.Mask2FormerModelTester):
    def get_config(self):
        """The same numbers at once: transformers' tester makes one with feature_size=16, which no GroupNorm of the
        pixel decoder fits and which ours refuses, and corrects it afterwards."""
        config = M2FConfig(
            num_attention_heads=self.num_attention_heads,
            encoder_feedforward_dim=16,
            dim_feedforward=32,
            num_queries=self.num_queries,
            num_labels=self.num_labels,
            decoder_layers=2,
            encoder_layers=2,
            hidden_dim=self.hidden_dim,
            mask_feature_size=self.hidden_dim,
            feature_size=self.hidden_dim,
        )
        config.backbone_config.embed_dim = config.backbone_config.hidden_size = 16
        config.backbone_config.depths = [1, 1, 1, 1]
        config.backbone_config.num_heads = [1, 1, 2, 2]
        config.backbone_config.num_channels = self.num_channels
        return config


images.Mask2FormerImageProcessingTester = ImageProcessingTester
models.Mask2FormerModelTester = ModelTester
models.Mask2FormerConfig = M2FConfig
models.Mask2FormerModel = M2FModel
models.Mask2FormerForUniversalSegmentation = M2FForUniversalSegmentation


class M2FImageProcessingTest(images.Mask2FormerImageProcessingTest):
    # Asked what is asked of transformers' standard class, which is that of the torchvision backend.
    image_processing_classes = {"torchvision": M2FImageProcessor}

    def setUp(self):
        self.image_processor_tester = ImageProcessingTester(self)


class M2FModelTest(transformers_tests.LabelsForTraining, models.Mask2FormerModelTest):
    all_model_classes = (M2FModel, M2FForUniversalSegmentation)
    pipeline_model_mapping = {"image-feature-extraction": M2FModel}


transformers_tests.skip(M2FImageProcessingTest, SKIPPED_OF_PROCESSOR)
transformers_tests.skip(M2FModelTest, SKIPPED_OF_MODEL)
