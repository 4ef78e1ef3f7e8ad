"""A saved model on the Hub, in one commit: weights, configuration, processor, card, and on request the code."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, validate_repo_id

from m2f.checkpoints.json_object import read_json_object
from m2f.hub.model_card import CARD_FILE, check_card
from m2f.hub.remote_code import AUTO_MAPS, write_bundle
from m2f.modeling_m2f.weight_files import check_index
from m2f.output.write_errors import naming

_CONFIG, _PROCESSOR = AUTO_MAPS
_INDEX = "model.safetensors.index.json"
# Of a folder, beside weights, bundle and what the card links; everything else (checkpoints, logs) stays at home.
_PUBLISHED = (
    *(_CONFIG, _PROCESSOR, CARD_FILE, _INDEX, "training_options.yaml", "card/*.png", "LICENSE*", "NOTICE*"),
    *("adapter/adapter_config.json", "adapter/*.safetensors"),
)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
# Files of an earlier push that this one does not have: other shards, other code.
_REPLACED = ["*.safetensors", "*.safetensors.index.json", "*.py", *(f"*{ending}" for ending in _PICKLES)]


class Push(NamedTuple):
    """What was, or with `dry_run` would be, published: path in the repository -> bytes, and the commit's address."""

    files: dict[str, int]
    url: str | None


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    remote_code: bool = False,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    token: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    copy_of: str | os.PathLike | None = None,
) -> Push:
    """Publish the model in a folder as one commit; the folder is not changed.

    Args:
        folder: with config.json, model.safetensors (or its shards), preprocessor_config.json and README.md
            (`model_card.py`).
        repo_id: "user/name" of the repository, which is made where it does not exist.
        remote_code: add the code, so that the model loads where m2f is not installed, with `trust_remote_code=True`.
        private: of a repository that is made; an existing one must be private already.
        revision: branch to publish on, made where it does not exist.
        dry_run: check everything that is here, connect to nothing, publish nothing.
        token: of the Hub; by default the one that is logged in, or HF_TOKEN.
        say: called with lines about what happens.
        copy_of: the folder that `folder` is a copy of; links may lead there too.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a link leads out of the folder, weights are not safetensors, the card is not complete, there is no
            token, or the repository holds another kind of model. Nothing is published then.
        OSError: the Hub cannot be reached or refuses, or the connection broke. The repository is then as it was,
            because a commit is whole or not at all; the same command may be given again.
    """
    folder = Path(folder)
    _check_repo_id(repo_id)
    names = _publishable(folder)
    _check_inside(folder, names, Path(copy_of or folder))
    check_card(folder)
    with tempfile.TemporaryDirectory(prefix="m2f-push-") as workplace:
        stage = Path(workplace)
        _fill(stage, folder, names)
        if remote_code:
            write_bundle(stage)
        _check_auto_map(stage)
        files = {str(path.relative_to(stage)): path.stat().st_size for path in _files(stage)}
        say(f"{len(files)} files, {sum(files.values()) / 2**20:.1f} MiB: {', '.join(files)}")
        if dry_run:
            return Push(files, None)
        return Push(files, _upload(stage, repo_id, private, revision, token or _token(), say))


def _upload(
    stage: Path, repo_id: str, private: bool, revision: str | None, token: str, say: Callable[[str], None]
) -> str:
    api = HfApi(token=token)
    with _explained(repo_id):
        _check_repository(api, repo_id, revision, private)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=stage,
            revision=revision,
            commit_message="Model of m2f",
            delete_patterns=_REPLACED,
        )
    say(f"published: {commit.commit_url}")
    return commit.commit_url


def _check_repo_id(repo_id: str):
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} cannot be a repository's name: {error}") from error
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} names no owner; give it as owner/{repo_id}")


def _publishable(folder: Path) -> list[str]:
    """Paths in the folder that are published.

    Raises:
        FileNotFoundError, ValueError: as `push_folder`.
    """
    for name in (_CONFIG, _PROCESSOR):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; save the model and its processor there first")
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not weights:
        pickles = [path.name for path in sorted(folder.glob("*")) if path.suffix in _PICKLES]
        remedy = "save the model there with save_pretrained, which writes safetensors"
        raise FileNotFoundError(
            f"{folder} has no *.safetensors (but {', '.join(pickles) or 'nothing else'}); {remedy}"
        )
    if (folder / _INDEX).is_file():
        shards = set(check_index(folder / _INDEX).values())
        if missing := sorted(shards - set(weights)):
            raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}, which {_INDEX} names; save the model again")
        weights = sorted(shards)
    kind = read_json_object(folder / _CONFIG).get("model_type")
    if kind != "m2f":
        raise ValueError(f"{folder} holds a model of model_type {kind!r}, not of m2f; see `m2f convert`")
    others = (path for pattern in _PUBLISHED for path in sorted(folder.glob(pattern)))
    return [*weights, *(str(path.relative_to(folder)) for path in others if path.is_file()), *_code(folder)]


def _code(folder: Path) -> list[str]:
    """Python files, where an auto_map names one of them."""
    references = [ref for name in AUTO_MAPS for ref in _auto_map(folder / name).values() if "--" not in ref]
    if any((folder / f"{reference.split('.')[0]}.py").is_file() for reference in references):
        return [path.name for path in sorted(folder.glob("*.py"))]
    return []


def _check_inside(folder: Path, names: list[str], copy_of: Path):
    """Whoever made the folder must not have private files of whoever publishes it published too.

    Links within the folder may stay, as `train` and download caches make them.
    """
    for path in (folder / name for name in names):
        if not any(path.resolve().is_relative_to(root.resolve()) for root in (folder, copy_of)):
            raise ValueError(
                f"{path} lies outside the folder, at {path.resolve()}, and would be published; put the file itself "
                "there, or remove the link"
            )


def _fill(stage: Path, folder: Path, names: list[str]):
    """Weights are linked, because they may be large; the rest is copied."""
    for name in names:
        (stage / name).parent.mkdir(exist_ok=True)
        if name.endswith(".safetensors"):
            (stage / name).symlink_to((folder / name).resolve())
        else:
            with naming(stage / name):
                shutil.copyfile(folder / name, stage / name)


def _check_auto_map(stage: Path):
    for name in AUTO_MAPS:
        for reference in _auto_map(stage / name).values():
            file = f"{reference.rsplit('.', 1)[0]}.py"
            if "--" not in reference and not (stage / file).is_file():
                raise ValueError(
                    f"{name} names code that is not in the folder ({file}), so that nobody could load it; add the "
                    "code with --remote-code"
                )


def _auto_map(path: Path) -> dict[str, str]:
    auto_map = read_json_object(path).get("auto_map") or {}
    if not isinstance(auto_map, dict) or not all(isinstance(value, str) for value in auto_map.values()):
        raise ValueError(f"{path}: auto_map must name a class for each of transformers' Auto classes; leave it out")
    return auto_map


def _files(stage: Path) -> list[Path]:
    return sorted(path for path in stage.rglob("*") if path.is_file())


def _token() -> str:
    token = get_token()
    if token is None:
        raise ValueError("there is no token of the Hub; log in with `hf auth login`, or set HF_TOKEN")
    return token


def _check_repository(api: HfApi, repo_id: str, revision: str | None, private: bool):
    """Refuse to write over something else."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return
    if private and not info.private:
        raise ValueError(f"{repo_id} exists and is public; choose another name, or make it private on the Hub first")
    kind = _model_type(api, repo_id, revision)
    if kind not in (None, "m2f"):
        raise ValueError(f"{repo_id} exists and holds a model of model_type {kind!r}; choose another name")


def _model_type(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    for branch in (revision, None):
        try:
            with tempfile.TemporaryDirectory(prefix="m2f-push-") as folder:
                path = api.hf_hub_download(repo_id, _CONFIG, revision=branch, local_dir=folder)
                return read_json_object(path).get("model_type")
        except LocalEntryNotFoundError as error:  # an EntryNotFoundError for a Hub that cannot be reached
            raise OSError(f"{repo_id} cannot be read, and nothing was published: {error}") from error
        except RevisionNotFoundError:
            continue  # a branch that this push makes, from the main one
        except EntryNotFoundError:
            return None
    return None


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Errors of the Hub and of the way there as OSErrors that say what to do."""
    again = "nothing was published; give the same command again"
    try:
        yield
    except GatedRepoError as error:
        raise OSError(f"{repo_id} is gated and this token has no access to it: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise OSError(
                f"the Hub refuses to write to {repo_id} with this token ({status}); log in with a token that may "
                "write there (`hf auth login`)"
            ) from error
        raise OSError(f"the Hub answers {error}; {again}") from error
    except httpx.HTTPError as error:
        raise OSError(f"the connection to the Hub failed ({type(error).__name__}: {error}); {again}") from error
