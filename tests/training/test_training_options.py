import pytest

from m2f.training.training_options import TrainingOptions


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_steps": 0}, ["max_steps is 0", "from 1"]),
        ({"learning_rate": -1e-4}, ["learning_rate is -0.0001"]),
        ({"ema_decay": 1.5}, ["ema_decay is 1.5", "from 0 to 1"]),
        ({"mixed_precision": "fp8"}, ["'fp8'", "no, bf16, fp16"]),
        ({"schedule": "cosine"}, ["'cosine'", "poly, multistep"]),
        ({"on_broken_image": "ignore"}, ["'ignore'", "raise, skip"]),
        ({"batch_size": 6, "gradient_accumulation_steps": 4}, ["batch_size 6", "gradient_accumulation_steps 4"]),
        ({"schedule": "multistep"}, ["milestones []", "max_steps 5000"]),
        ({"schedule": "multistep", "milestones": (100, 5000)}, ["[100, 5000]", "max_steps 5000", "--milestones"]),
        ({"schedule": "multistep", "milestones": (200, 100)}, ["[200, 100]", "ascend"]),
        ({"milestones": (100,)}, ["[100]", "poly"]),
        (
            {"freeze_backbone": True, "backbone_lr_multiplier": 0.1},
            ["frozen backbone", "backbone_lr_multiplier is 0.1"],
        ),
        ({"freeze_backbone": True, "layer_decay": 0.8}, ["layer_decay is 0.8", "leave one"]),
        ({"freeze_backbone": True, "lora": 8}, ["lora is 8", "leave one"]),
        ({"lora_targets": ("q_proj",)}, ["['q_proj']", "rank"]),
        ({"lora": 2000}, ["lora is 2000", "to 1024"]),
        ({"layer_decay": 1.5}, ["layer_decay is 1.5"]),
        ({"mask_annealing": (0.5,)}, ["[0.5]", "START and END"]),
        ({"mask_annealing": (9, 4)}, ["[9, 4]", "START < END"]),
        ({"mask_annealing": (100, 6000)}, ["step 6000", "max_steps 5000"]),
        ({"mask_annealing": (0.1, 0.9), "compile": True}, ["mask_annealing", "compile"]),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_value_and_limit(fields, words):
    with pytest.raises(ValueError) as error:
        TrainingOptions(**fields)
    assert all(word in str(error.value) for word in words), error.value


def test_the_backbones_rate_depends_on_how_it_is_trained():
    assert TrainingOptions().backbone_rate == 0.1
    assert TrainingOptions(layer_decay=0.8).backbone_rate == TrainingOptions(lora=8).backbone_rate == 1
    assert TrainingOptions(lora=8, backbone_lr_multiplier=0.5).backbone_rate == 0.5


def test_annealing_is_given_in_steps_or_in_shares():
    assert TrainingOptions(max_steps=200, mask_annealing=(0.25, 1)).mask_annealing_steps == (50, 200)
    assert TrainingOptions(max_steps=200, mask_annealing=(1, 150)).mask_annealing_steps == (1, 150)


def test_the_learning_rate_is_scaled_only_where_that_is_asked_for():
    """Linearly from the 16 images of the original's recipes."""
    assert TrainingOptions(batch_size=4, learning_rate=1e-4).scaled_learning_rate == 1e-4
    assert TrainingOptions(batch_size=4, learning_rate=1e-4, scale_learning_rate=True).scaled_learning_rate == 2.5e-5
    assert TrainingOptions(batch_size=16, scale_learning_rate=True).scaled_learning_rate == 1e-4


def test_the_defaults_are_the_papers_where_they_are_no_matter_of_the_machine():
    """The constants of all configurations of the original."""
    options = TrainingOptions()
    assert (options.learning_rate, options.weight_decay, options.backbone_rate) == (1e-4, 0.05, 0.1)
    assert (options.clip_norm, options.schedule, options.power) == (0.01, "poly", 0.9)
