"""`m2f push` and transformers' own pushes, to a Hub on the loopback interface."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import TOKEN, running_hub
from huggingface_hub import constants
from published_model import FACTS, save_model
from test_remote_code import check_values, installed_values, load_in_a_new_process

from m2f.cli import main
from m2f.hub.model_card import CardFacts, write_card
from m2f.hub.publishing import push_folder
from m2f.hub.remote_code import bundle_files, write_bundle

ROOT = Path(__file__).resolve().parents[2]
REPO = "alice/my-model"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def environment_of(hub, tmp_path: Path) -> dict[str, str]:
    """For a new process; a fresh cache."""
    home = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    return {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", **home}


def files_on(hub, branch: str = "main") -> set[str]:
    return set(hub.repositories[REPO].branches[branch]) - {".gitattributes"}


NAMES = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}


def test_one_commit_publishes_what_a_new_process_loads_without_m2f(hub, saved, tmp_path):
    assert main(["push", str(saved), REPO, "--remote-code"]) == 0
    assert files_on(hub) == NAMES | set(bundle_files())
    assert hub.repositories[REPO].commits == 1
    assert not list(saved.glob("*.py"))  # the folder is as it was
    output = tmp_path / "process"
    record = load_in_a_new_process(REPO, output, **environment_of(hub, tmp_path))
    assert all(module.startswith("transformers_modules.alice.") for module in record["classes"])
    check_values(output, installed_values(saved, output / "image.png"))
    again = load_in_a_new_process(output / "saved", tmp_path / "again")
    assert again["segments"] == record["segments"]
    for name in ("config.json", "preprocessor_config.json"):
        references = json.loads((output / "saved" / name).read_text())["auto_map"].values()
        assert not any("--" in reference for reference in references)


def test_without_code_the_repository_is_for_the_installed_package(hub, saved, tmp_path):
    push_folder(saved, REPO)
    assert files_on(hub) == NAMES
    record = load_in_a_new_process(REPO, tmp_path / "process", "with", **environment_of(hub, tmp_path))
    assert all(module.startswith("m2f.") for module in record["classes"])


def test_dry_run_connects_to_nothing(hub, saved, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    push = push_folder(saved, REPO, remote_code=True, dry_run=True)
    assert set(push.files) == NAMES | set(bundle_files()) and push.url is None
    assert push.files["model.safetensors"] == (saved / "model.safetensors").stat().st_size
    assert hub.requests == []


def test_later_push_removes_what_it_does_not_have_and_a_branch_is_made(hub, saved):
    hub.add(REPO, {"config.json": b'{"model_type": "m2f"}', "pytorch_model.bin": b"x", "old.py": b"", "notes.md": b""})
    push_folder(saved, REPO)
    assert files_on(hub) == NAMES | {"notes.md"}
    push_folder(saved, REPO, revision="v2", remote_code=True)
    assert files_on(hub, "v2") == NAMES | {"notes.md"} | set(bundle_files())
    assert files_on(hub) == NAMES | {"notes.md"}


def test_private_repositories_are_made_and_public_ones_are_not_taken_for_private(hub, saved):
    push_folder(saved, REPO, private=True)
    assert hub.repositories[REPO].private
    hub.add("alice/public", {})
    with pytest.raises(ValueError, match="exists and is public"):
        push_folder(saved, "alice/public", private=True)


def test_nothing_is_published_without_a_token_or_over_another_model(hub, saved, monkeypatch):
    hub.add(REPO, {"config.json": b'{"model_type": "bert"}'})
    with pytest.raises(ValueError, match="holds a model of model_type 'bert'"):
        push_folder(saved, REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="no token of the Hub; log in with `hf auth login`"):
        push_folder(saved, REPO)
    assert hub.repositories[REPO].commits == 0


@pytest.mark.parametrize(
    ("status", "message"), [(403, "a token that may write"), (0, "connection"), (500, "give the same command again")]
)
def test_refused_and_broken_pushes_leave_all_as_it_was(hub, saved, status, message, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its own attempts
    before = sorted(saved.iterdir())
    hub.fail_commits = status
    with pytest.raises(OSError, match=message):
        push_folder(saved, REPO)
    assert files_on(hub) == set()
    assert sorted(saved.iterdir()) == before
    assert not list(tmp_path.glob("m2f-push-*"))
    hub.fail_commits = None
    push_folder(saved, REPO)
    assert files_on(hub) == NAMES


def test_incomplete_folders_are_refused_before_a_request(hub, tmp_path, capsys, monkeypatch):
    folder = save_model(tmp_path / "model", with_card=False)
    assert main(["push", str(folder), REPO]) == 2
    assert "lacks a licence (--license), what it was trained on (--dataset)" in capsys.readouterr().err
    card = ["--license", "mit", "--dataset", "d", "--base-model", "none"]
    before = sorted(folder.rglob("*"))
    assert main(["push", str(folder), REPO, *card, "--dry-run"]) == 0
    assert sorted(folder.rglob("*")) == before and "would write the model card" in capsys.readouterr().err
    with monkeypatch.context() as without_token:
        without_token.delenv("HF_TOKEN")
        assert main(["push", str(folder), REPO, *card]) == 2
    assert (folder / "README.md").is_file() and "there is no token" in capsys.readouterr().err
    with open(folder / "README.md", "a") as file:
        file.write("A word of mine.\n")
    assert main(["push", str(folder), REPO, *card]) == 2
    assert "--license, --dataset, --base-model would not change it" in capsys.readouterr().err
    for name in ("my-model", "a/b/c", "alice/.."):
        with pytest.raises(ValueError, match="owner|cannot be a repository"):
            push_folder(folder, name)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="no .*safetensors .*pytorch_model.bin"):
        push_folder(folder, REPO)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    (folder / "preprocessor_config.json").rename(folder / "x")
    with pytest.raises(FileNotFoundError, match="no preprocessor_config.json"):
        push_folder(folder, REPO)
    assert hub.requests == [] and FACTS["license"] == "apache-2.0"


def test_open_card_of_a_training_is_completed_by_the_push_and_not_published_before(hub, tmp_path, capsys):
    folder = save_model(tmp_path / "model", with_card=False)
    (folder / "training_options.yaml").write_text("scratch: config.json\nmax_steps: 7\n")
    write_card(folder, CardFacts(), may_be_open=True)
    assert main(["push", str(folder), REPO]) == 2
    error = capsys.readouterr().err
    assert "lacks license, datasets" in error and "(--license)" in error and "(--dataset)" in error
    assert hub.requests == []
    assert main(["push", str(folder), REPO, "--license", "mit", "--dataset", "user/nuclei"]) == 0
    card = hub.repositories[REPO].branches["main"]["README.md"].decode()
    assert "license: mit" in card and "user/nuclei" in card and "# my-model" in card and "m2f push" not in card
    assert main(["push", str(folder), REPO]) == 0  # nothing given: the card stays
    assert hub.repositories[REPO].branches["main"]["README.md"].decode() == card


def test_dangling_auto_map_is_refused_and_code_beside_it_is_published(hub, tmp_path):
    folder = save_model(tmp_path / "model")
    write_bundle(folder)
    push_folder(folder, REPO)
    assert files_on(hub) == NAMES | set(bundle_files())
    for file in folder.glob("*.py"):
        file.unlink()
    with pytest.raises(ValueError, match="names code that is not in the folder .*--remote-code"):
        push_folder(folder, REPO)


# Every kind of file that is published, and a folder of them.
@pytest.mark.parametrize(
    "name",
    ["config.json", "preprocessor_config.json", "README.md", "model.safetensors", "model.safetensors.index.json"]
    + ["training_options.yaml", "LICENSE", "NOTICE.txt", "card/x.png", "card", "modeling_m2f.py", "other.py"],
)
def test_what_lies_elsewhere_is_not_published(name, saved, tmp_path):
    """A link `card/x.png` to a private file was followed."""
    folder, private = tmp_path / "model", tmp_path / "private"
    shutil.copytree(saved, folder)
    if name.endswith(".py"):
        write_bundle(folder)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if name == "card":
        private.mkdir()
        (private / "x.png").write_bytes(b"secret")
    elif path.exists():
        path.rename(private)
    else:
        private.write_text('{"metadata": {}, "weight_map": {"a": "model.safetensors"}}')
    path.symlink_to(private)
    with pytest.raises(ValueError, match=f"{name}.* lies outside the folder, at {private}.*remove the link"):
        push_folder(folder, REPO, dry_run=True)
    if private.is_file():  # within the folder it may be one
        private.rename(folder / "its_own_place")
        path.unlink()
        path.symlink_to(Path(*[".."] * name.count("/"), "its_own_place"))
        assert name in push_folder(folder, REPO, dry_run=True).files


TRAINER = """
import json, sys
import torch
if sys.argv[3] == "installed":
    sys.path.insert(0, sys.argv[4])
    import m2f
from transformers import AutoModelForUniversalSegmentation, Trainer, TrainerCallback, TrainingArguments
from transformers.models.auto.image_processing_auto import AutoImageProcessor
source, output = sys.argv[1], sys.argv[2]
model = AutoModelForUniversalSegmentation.from_pretrained(source, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
assert type(model).__module__.startswith("m2f." if sys.argv[3] == "installed" else "transformers_modules.")
image = {"pixel_values": torch.randn(3, 64, 64), "mask_labels": torch.ones(1, 64, 64), "class_labels": torch.zeros(1)}
def collate(items):
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    return {**batch, "class_labels": batch["class_labels"].long()}
settings = dict(max_steps=2, save_steps=1, per_device_train_batch_size=1, report_to=[], use_cpu=True)
settings |= dict(push_to_hub=True, hub_model_id="alice/my-model", hub_strategy="every_save", hub_always_push=True)
arguments = TrainingArguments(output, disable_tqdm=True, **settings)
class PushedBeforeTheNextStep(TrainerCallback):
    def on_save(self, *args, **kwargs):
        trainer.push_in_progress.wait_until_done()
trainer = Trainer(model, arguments, collate, [image] * 2, processing_class=processor)
trainer.add_callback(PushedBeforeTheNextStep())
trainer.train()
trainer.push_to_hub()
"""


@pytest.mark.parametrize("mode", ["installed", "remote"])
def test_every_push_of_trainer_and_its_checkpoints_load(mode, hub, saved, tmp_path):
    """With `hub_strategy="every_save"`: two pushes on the way and a last one."""
    source = save_model(tmp_path / "source")
    write_bundle(source)
    variables = {**os.environ, **environment_of(hub, tmp_path), "PYTHONPATH": ""}
    command = [sys.executable, "-c", TRAINER, str(source), str(tmp_path / "run"), mode, str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    checkpoint, early = (tmp_path / "run" / f"checkpoint-{step}" for step in (2, 1))
    how = "without" if mode == "remote" else "with"
    pushes = [files for files in hub.repositories[REPO].history if "model.safetensors" in files]
    assert len(pushes) == 3 and pushes[0]["model.safetensors"] != pushes[1]["model.safetensors"]
    for files in pushes:
        assert {name for name in files if name.endswith(".py")} == (set(bundle_files()) if mode == "remote" else set())
        assert ("auto_map" in json.loads(files["config.json"])) == (mode == "remote")
    first = tmp_path / "first push"
    first.mkdir()
    for name, content in pushes[0].items():
        (first / name).write_bytes(content)
    loaded = {REPO: checkpoint, checkpoint: checkpoint, first: early}  # what is loaded -> where its weights are too
    for number, (folder, weights) in enumerate(loaded.items()):
        environment = environment_of(hub, tmp_path / str(number)) if folder == REPO else {}
        (tmp_path / str(number)).mkdir()
        output = tmp_path / str(number) / "out"
        load_in_a_new_process(folder, output, how, **environment)
        check_values(output, installed_values(weights, output / "image.png"))
