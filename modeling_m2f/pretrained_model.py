"""`M2FPreTrainedModel`: how a model is initialised, loaded, and prepared for training."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.modeling_m2f.adapters import add_adapters, attention_projections, merge_adapters, reset_adapters
from m2f.modeling_m2f.backbone import (
    input_embeddings_of,
    load_pretrained_backbone,
    set_input_embeddings_of,
)
from m2f.modeling_m2f.checkpoint_report import CONSTANTS, FORMER_CONSTANTS, check_report, wrong_names_hint
from m2f.modeling_m2f.file_mode import give_usual_mode
from m2f.modeling_m2f.recompute import recompute_decoders
from m2f.modeling_m2f.weight_files import check_weight_files, has_pickled_weights
from m2f.modeling_m2f.weight_init import torch_default_
from m2f.modeling_m2f.wide_products import with_same_products

logger = logging.get_logger(__name__)

# What torch raises for a pickle that is damaged or holds other things, and transformers for what came out of it.
_PICKLE_ERRORS = (pickle.UnpicklingError, EOFError, LookupError, AttributeError, TypeError, RuntimeError)

Model = TypeVar("Model", bound="M2FPreTrainedModel")


class M2FPreTrainedModel(PreTrainedModel):
    """What both models share: configuration, initialisation, and the ways to load weights."""

    config: M2FConfig
    config_class = M2FConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    # Each on one device, as their sums need it; the backbone's are added in `M2FModel`.
    _no_split_modules: set[str] | list[str] | None = [
        "PixelDecoder",
        "DeformableEncoderLayer",
        "TransformerModule",
        "MaskedAttentionLayer",
    ]
    # The mask of masked attention differs from query to query; flash attention cannot take it.
    _supports_sdpa = True
    # Constants that some checkpoints lack and others have.
    _keys_to_ignore_on_load_missing = [*CONSTANTS, r"^criterion\."]
    _keys_to_ignore_on_load_unexpected = [*CONSTANTS, *FORMER_CONSTANTS]

    @property
    def _num_channels(self) -> int:
        return getattr(self.config.backbone_config, "num_channels", 3)

    @property
    def _backbone(self) -> PreTrainedModel:
        base: Any = self.base_model
        return base.pixel_level_module.encoder

    def get_input_embeddings(self) -> nn.Module:
        """What reads the pixels: the backbone's patch embeddings, or its first convolution if it names none."""
        return input_embeddings_of(self._backbone)

    def set_input_embeddings(self, value: nn.Module):
        set_input_embeddings_of(self._backbone, value)

    def enable_input_require_grads(self):
        """Lets gradients reach adapters behind frozen layers that are checkpointed, as in transformers, whose own hook
        fails on embeddings that return a tuple, such as Swin's (transformers 5.23)."""
        for hook in getattr(self, "_require_grads_hooks", ()):
            hook.remove()
        self._require_grads_hook = self.get_input_embeddings().register_forward_hook(_require_gradients)
        self._require_grads_hooks = [self._require_grads_hook]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Layers that no rule of the original names keep PyTorch's defaults, as there."""
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            torch_default_(module)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        else:
            super()._init_weights(module)

    @torch.no_grad()
    def initialize_weights(self):
        """As in transformers, then the original's rules, inner modules first. Not in `_init_weights`, because
        transformers never calls that for a module of third-party code that owns no parameter itself."""
        super().initialize_weights()
        for module in reversed(list(self.modules())):
            init_original_weights = getattr(module, "init_original_weights", None)
            if init_original_weights is not None:
                init_original_weights()
        reset_adapters(self._backbone)

    def freeze_backbone(self):
        """Keeps the backbone as it is in all training from now on: without gradients, activations that are kept for
        them, dropout, and statistics of BatchNorm that move. It holds for this object; no file says so.

        With `M2FConfig.recompute_feedforward` what is cheap behind the backbone is computed again instead of kept,
        see `recompute_decoders`."""
        base: Any = self.base_model
        base.pixel_level_module.freeze_backbone()
        if self.config.recompute_feedforward:
            recompute_decoders(self)

    def add_backbone_adapters(self, rank: int, targets: Sequence[str] = ()):
        """Puts LoRA adapters into the backbone and freezes the rest of it; they are saved and loaded with the model
        (`M2FConfig.backbone_lora`), where PEFT is installed.

        Args:
            rank: of the adapters' matrices.
            targets: ends of names of the backbone's linear layers and convolutions; by default those of its attention.

        Raises:
            ValueError: PEFT is not installed, a target matches nothing, or there are adapters already.
        """
        if self.config.backbone_lora is not None:
            raise ValueError("the backbone has LoRA adapters already; merge them with merge_backbone_adapters")
        targets = list(targets) or attention_projections(self._backbone)
        add_adapters(self._backbone, rank, targets)
        self.config.backbone_lora = {"rank": rank, "targets": targets}

    def merge_backbone_adapters(self):
        """Adds the LoRA adapters to the weights beside them; the model then needs no PEFT."""
        merge_adapters(self._backbone)
        self.config.backbone_lora = None

    def set_mask_shares(self, shares: Sequence[float]):
        """In training, of how many of its queries each layer of the Transformer decoder uses the masks.

        Args:
            shares: for each layer in [0, 1]; layers of 0 come first. They have no masks outside training either
                (`M2FConfig.masked_layers`), all others have them there.
        """
        base: Any = self.base_model
        base.transformer_module.decoder.mask_shares = list(shares)
        masked = sum(share > 0 for share in shares)
        self.config.masked_layers = None if masked == len(shares) else masked

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, *args, **kwargs
    ):
        """As in transformers; what is computed again is computed as the first time, see `wide_products`."""
        super()._set_gradient_checkpointing(enable, _SameProducts(gradient_checkpointing_func), *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        allow_partial: bool = False,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """As in transformers; reads transformers' Mask2Former checkpoints too.

        Args:
            allow_partial: leave random values where the checkpoint has no tensor, and its superfluous tensors unread,
                as transformers does.
            ignore_mismatched_sizes: leave random values where its tensor has another shape.
            output_loading_info: return (model, report), and leave the judgement of missing and superfluous tensors to
                the caller.

        Raises:
            CheckpointMismatchError: names are missing, unexpected or of another shape; all are listed.
            OSError: there is no such checkpoint, or it is damaged.
        """
        check_weight_files(pretrained_model_name_or_path, kwargs.get("subfolder") or "", kwargs.get("variant"))
        try:
            loaded: Any = super().from_pretrained(  # a pair, which the annotation does not know
                pretrained_model_name_or_path,
                *model_args,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **kwargs,
            )
        except SafetensorError as error:
            raise OSError(
                f"The weights in {pretrained_model_name_or_path!r} are damaged ({error}); download or copy them again."
            ) from error
        except _PICKLE_ERRORS as error:
            if not has_pickled_weights(pretrained_model_name_or_path) or "memory" in str(error):
                raise
            raise OSError(
                f"The weights in {pretrained_model_name_or_path!r} are no readable pickle of tensors "
                f"({type(error).__name__}); get them again, or the original's with `m2f convert`."
            ) from error
        model, report = loaded
        check_report(
            report,
            source=repr(str(pretrained_model_name_or_path)),
            with_heads=hasattr(model, "class_predictor"),
            names=model.state_dict().keys(),
            allow_partial=allow_partial or output_loading_info or pretrained_model_name_or_path is None,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        if hasattr(model, "criterion") and not model.criterion.empty_weight.is_meta:
            model.set_class_weights(model.criterion.settle_class_weights())
        return (model, report) if output_loading_info else model

    def save_pretrained(self, save_directory: str | PathLike, *args, **kwargs):
        """As in transformers; the weights may be read by whom the umask lets.

        Raises:
            OSError: they cannot be written; a full disk is an error of safetensors' own in transformers.
        """
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(f"cannot write the weights into {save_directory}: {error}") from error
        for file in Path(save_directory).glob("*.safetensors"):
            give_usual_mode(file)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """As in PyTorch; where the names are those of the original or of files, the error says what loads them, and
        with `strict=False`, which would leave the backbone as it is, a warning does."""
        hint = wrong_names_hint(sorted(map(str, state_dict.keys() - self.state_dict().keys())))
        try:
            keys = super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            if hint is None:
                raise
            raise RuntimeError(f"{hint} {error}") from error
        if hint is not None:
            logger.warning(f"{len(keys.unexpected_keys)} weights were not loaded. {hint}")
        return keys

    @classmethod
    def from_pretrained_backbone(
        cls: type[Model], backbone: str, config: M2FConfig | None = None, **config_fields
    ) -> Model:
        """A new model whose backbone has the weights of a checkpoint, such as an ImageNet classifier.

        Args:
            backbone: folder or Hub id of a model that `AutoBackbone` knows, such as
                "microsoft/swin-tiny-patch4-window7-224".
            config: configuration of the new model, whose `backbone_config` must describe that backbone; by default one
                made of the checkpoint's own backbone configuration and `config_fields`.
            config_fields: fields of `M2FConfig`.

        Raises:
            OSError: the checkpoint cannot be found or reached.
            ValueError: it lacks weights of the backbone, or has them in other shapes; or `config` and `config_fields`
                are both given.
        """
        if config is not None and config_fields:
            raise ValueError(f"Give config or its fields ({', '.join(config_fields)}), not both.")
        if config is None:
            config = M2FConfig(**{"backbone": backbone, **config_fields})
        model = cls(config)
        load_pretrained_backbone(model._backbone, backbone)
        return model


class _SameProducts:
    """A checkpointing function, called with `with_same_products` of what it is given; an object, which can be copied
    and pickled with the model."""

    def __init__(self, checkpointing_function):
        self.checkpointing_function = checkpointing_function

    def __call__(self, function, *inputs, **kwargs):
        return self.checkpointing_function(with_same_products(function), *inputs, **kwargs)


def _require_gradients(module: nn.Module, arguments: tuple, output: Tensor | tuple):
    """A forward hook."""
    for x in output if isinstance(output, tuple) else (output,):
        if torch.is_grad_enabled() and isinstance(x, Tensor) and x.is_floating_point():
            x.requires_grad_(True)
