"""The random weights that both sides of `compare_training.py` start from: a Mask2Former with a narrow Swin backbone.

    python benchmarks/comparison_start.py DATA FOLDER --split train --edge 256 --queries 100

writes a checkpoint of our format, which transformers' Mask2Former reads too, and the image processor.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from demo_model import sine_embeddings

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.data.dataset_formats import open_dataset
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.validation.label_check import label_fields

_STATISTICS_IMAGES = 50


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--edge", type=int, default=256, help="of the images in training and evaluation")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--encoder-layers", type=int, default=3)
    parser.add_argument("--predictions", type=int, default=5, help="of the Transformer decoder, one more than layers")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def build_config(dataset, args: argparse.Namespace) -> M2FConfig:
    backbone = {
        "model_type": "swin",
        "embed_dim": 32,
        "depths": [1, 1, 2, 1],
        "num_heads": [2, 4, 8, 16],
        "window_size": 8,
        "drop_path_rate": 0.0,
        "image_size": args.edge,
        "use_absolute_embeddings": True,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    return M2FConfig(
        backbone_config=backbone,
        feature_size=args.channels,
        mask_feature_size=args.channels,
        hidden_dim=args.channels,
        encoder_layers=args.encoder_layers,
        encoder_feedforward_dim=4 * args.channels,
        decoder_layers=args.predictions,
        dim_feedforward=4 * args.channels,
        num_attention_heads=4,
        num_queries=args.queries,
        train_num_points=2048,  # the mask logits have 64 x 64 cells at an edge of 256
        **label_fields(dataset),
    )


def channel_statistics(dataset) -> dict[str, list[float]]:
    """Mean and deviation of the pixels, from some of the images."""
    step = max(1, len(dataset) // _STATISTICS_IMAGES)
    images = [np.asarray(dataset[i].image).reshape(-1, 3) for i in range(0, len(dataset), step)]
    pixels = np.concatenate(images) / 255
    return {"image_mean": pixels.mean(0).tolist(), "image_std": pixels.std(0).tolist()}


def main(args: argparse.Namespace):
    dataset = open_dataset(args.data, args.split)
    torch.manual_seed(args.seed)
    model = M2FForUniversalSegmentation(build_config(dataset, args))
    # As in the demo: nothing tells objects apart that look alike, until a backbone has learned where it is.
    embeddings = next(p for name, p in model.named_parameters() if name.endswith("embeddings.position_embeddings"))
    embeddings.data.copy_(sine_embeddings(args.edge // 4, embeddings.shape[-1]))
    processor = M2FImageProcessor(
        task=model.config.task,
        thing_label_ids=model.config.thing_label_ids,
        size={"longest_edge": args.edge},
        pad_size={"height": args.edge, "width": args.edge},  # the backbone's positions are learned for this size
        **channel_statistics(dataset),
    )
    model.save_pretrained(args.folder)
    processor.save_pretrained(args.folder)
    print(f"{model.num_parameters():,} parameters in {args.folder}")


if __name__ == "__main__":
    main(parse_args())
