"""transformers' own common model tests, run on our classes.

The tester below is shaped like that of transformers' Mask2Former, so that both answer the same questions; what its own
files ask beside the common tests stands at the end.
"""

import unittest

import torch
import transformers
from packaging.version import Version
from transformers_tests import LabelsForTraining, import_tests

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel

common = import_tests("test_modeling_common")


class M2FModelTester:
    def __init__(self, parent):
        self.parent = parent
        self.batch_size, self.num_queries, self.num_channels, self.num_labels = 2, 10, 3, 4
        self.image_size, self.hidden_dim, self.is_training = 96, 32, True
        # What the common tests call layers, sequence and size are the Transformer decoder's layers, queries, channels.
        self.num_hidden_layers, self.seq_length, self.hidden_size = 2, self.num_queries, self.hidden_dim
        self.num_attention_heads = 4
        # encoder_, pixel_decoder_, transformer_decoder_hidden_states and hidden_states
        self.num_hidden_states_types = 4

    def get_config(self):
        config = M2FConfig(hidden_size=self.hidden_dim, num_attention_heads=4, feature_size=self.hidden_dim)
        config.num_queries = self.num_queries
        config.num_labels = self.num_labels
        config.backbone_config.embed_dim = 16
        config.backbone_config.depths = [1, 1, 1, 1]
        config.backbone_config.num_heads = [1, 1, 2, 2]
        config.backbone_config.hidden_size = 16
        config.backbone_config.num_channels = self.num_channels
        config.encoder_feedforward_dim = 64
        config.dim_feedforward = 64
        config.encoder_layers = 2
        config.decoder_layers = self.num_hidden_layers + 1
        config.mask_feature_size = self.hidden_dim
        config.train_num_points = 64
        return config

    def prepare_config_and_inputs_for_common(self):
        size = [self.batch_size, self.num_channels, self.image_size, self.image_size]
        mask = torch.ones([self.batch_size, self.image_size, self.image_size], dtype=torch.long)
        return self.get_config(), {"pixel_values": common.floats_tensor(size), "pixel_mask": mask}


class M2FCommonTest(LabelsForTraining, common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (M2FModel, M2FForUniversalSegmentation)
    is_encoder_decoder = False
    has_attentions = True
    test_resize_embeddings = False

    def setUp(self):
        super().setUp()
        self.model_tester = M2FModelTester(self)

    @unittest.skipIf(
        Version(transformers.__version__) < Version("5.23"),
        "earlier versions count the states from the first layer on",
    )
    def test_can_capture_specific_layers_hidden_states(self):
        super().test_can_capture_specific_layers_hidden_states()

    @unittest.skip("Of nn.Embedding; the input embeddings here are convolutions, see test_frozen_training.py")
    def test_model_get_set_embeddings(self):
        pass

    def test_outputs_have_the_shapes_and_fields_that_transformers_tests_ask_for(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        tester = self.model_tester
        model = M2FForUniversalSegmentation(config).eval()
        labels = self.labels(inputs["pixel_values"], config.num_labels)
        with torch.no_grad():
            plain = model(**inputs)
            trained = model(**inputs, **labels, output_hidden_states=True, output_attentions=True)
        side = tester.image_size // 4
        for outputs in (plain, trained):
            assert outputs.masks_queries_logits.shape == (2, tester.num_queries, side, side)
            assert outputs.class_queries_logits.shape == (2, tester.num_queries, tester.num_labels + 1)
            assert outputs.transformer_decoder_last_hidden_state.shape == (2, tester.num_queries, tester.hidden_dim)
            assert outputs.pixel_decoder_last_hidden_state is not None
            assert outputs.encoder_last_hidden_state is not None
        assert plain.loss is None and trained.loss.shape == ()
        assert len(trained.encoder_hidden_states) == 4 and len(trained.pixel_decoder_hidden_states) == 3
        assert len(trained.transformer_decoder_hidden_states) == config.decoder_layers
        assert trained.attentions is not None

    def test_states_and_attentions_of_a_training_step_get_gradients(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config.output_hidden_states = config.output_attentions = True
        config._attn_implementation = "eager"
        model = M2FForUniversalSegmentation(config).train()
        outputs = model(inputs["pixel_values"], **self.labels(inputs["pixel_values"], config.num_labels))
        names = ("encoder", "pixel_decoder", "transformer_decoder")
        first = [getattr(outputs, f"{name}_hidden_states")[0] for name in names] + [outputs.attentions[0]]
        for state in first:
            state.retain_grad()
        outputs.loss.backward(retain_graph=True)
        assert all(state.grad is not None for state in first)
