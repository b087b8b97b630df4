# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Models of the Hugging Face hub: what an export reads of them, at one commit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import (
    constants,
    get_cached_repo_tree,
    get_token,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from vlm_perception.bundle.manifest import HubSource
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.files import (
    ADAPTER_NAME,
    CONFIG_NAME,
    INDEX_NAME,
    WEIGHTS_NAME,
    refuse_adapter,
    refuse_quantized,
)
from vlm_perception.deploy.checkpoints.model_card import CARD, read_card
from vlm_perception.modeling.pixel_scaling import read_json

_TEXTS = (
    CONFIG_NAME,
    CARD,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"

# httpx2's are those of a connection, hf_xet's own are RuntimeErrors.
_TROUBLES = (OSError, httpx2.HTTPError, XetDownloadError, RuntimeError)


@dataclass(frozen=True)
class FoundModel:
    """A model at one commit, whose config.json has passed; its weights may not be here."""

    id: str
    revision: str
    """The commit."""
    folder: Path
    """The snapshot in the cache of the hub's client; it may hold more than an export reads."""
    files: Mapping[str, int]
    """What an export reads, the weights last, and the bytes of each."""

    @property
    def missing_bytes(self) -> int:
        """What is still to be fetched."""
        return sum(size for file, size in self.files.items() if not (self.folder / file).exists())


def find(name: str, check: Callable[[str, Mapping[str, Any]], None]) -> FoundModel:
    """Ask the hub for a model; without a network its client's cache answers.

    A branch or a tag is resolved to a commit. A token is taken from where `hf auth login` puts it,
    or from HF_TOKEN.

    Args:
        name: `ORG/NAME` or `ORG/NAME@REVISION`, a branch, a tag or a whole commit hash.
        check: refuses a model by its id and its config.json.

    Raises:
        ExportError: there is no such model or revision, it may not be read, or it is no checkpoint
            with safetensors.
    """
    model, _, revision = name.partition("@")
    with _in_one_sentence(model, revision), disable_progress_bars():
        snapshot = snapshot_download(
            model, revision=revision or None, allow_patterns=[CONFIG_NAME, ADAPTER_NAME]
        )
    folder = Path(snapshot)
    sizes = _listed(model, folder)
    _require_checkpoint(model, folder, sizes)
    check(model, read_json(folder / CONFIG_NAME))
    files = {file: sizes[file] for file in _chosen(model, sizes)}
    return FoundModel(model, folder.name, folder, files)


def require_room(models: Sequence[FoundModel]) -> None:
    """Refuse to begin what the disk of the cache cannot hold.

    Raises:
        ExportError: it is too small for what is missing.
    """
    missing = sum(model.missing_bytes for model in models)
    if missing == 0:
        return
    free = shutil.disk_usage(models[0].folder).free
    if missing > free:
        raise ExportError(
            f"{missing / 1e9:.1f} GB are to be fetched for {' and '.join(m.id for m in models)}, "
            f"and the disk of {constants.HF_HUB_CACHE} has {free / 1e9:.1f} GB free: make room, or "
            "set HF_HOME to a folder on a larger disk"
        )


def fetch(model: FoundModel) -> HubSource:
    """Fetch what an export reads; what the cache holds already is not fetched again.

    Raises:
        ExportError: it may not be read, or the transfer broke off.
    """
    with _in_one_sentence(model.id, model.revision):
        # In this thread, file by file: so an interrupt ends it at once.
        for file in model.files:
            hf_hub_download(model.id, file, revision=model.revision)
    return HubSource(id=model.id, revision=model.revision, licence=read_card(model.folder).licence)


def _listed(model: str, folder: Path) -> dict[str, int]:
    """Bytes of each file of a commit, by its path."""
    try:
        tree = get_cached_repo_tree(model, revision=folder.name)
    except CachedRepoTreeNotFoundError:
        # There is no network, and what filled the cache has kept no list.
        return {each.name: each.stat().st_size for each in folder.iterdir() if each.exists()}
    return {each.path: each.size for each in tree}


def _chosen(model: str, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The files that an export reads, the weights last."""
    weights = [WEIGHTS_NAME] if WEIGHTS_NAME in sizes else sorted(filter(_SHARD.fullmatch, sizes))
    if not weights:
        pickled = sorted(file for file in sizes if file.endswith((".bin", ".pt", ".pth")))
        has = f"only {pickled[0]}, which can run code when it is read" if pickled else "no weights"
        raise ExportError(
            f"{model} holds no model.safetensors, {has}; look for a revision that has it "
            f"({_page(model)}/discussions) and give it as {model}@refs/pr/NUMBER, or convert it "
            "(`AutoModel.from_pretrained(...).save_pretrained(FOLDER)`) and give that folder"
        )
    texts = [file for file in _TEXTS if file in sizes]
    index = [INDEX_NAME] if weights != [WEIGHTS_NAME] and INDEX_NAME in sizes else []
    return (*texts, *index, *weights)


def _require_checkpoint(model: str, folder: Path, sizes: Mapping[str, int]) -> None:
    refuse_adapter(folder, model)
    if CONFIG_NAME not in sizes:
        raise ExportError(
            f"{model} holds no {CONFIG_NAME}, so it is no checkpoint of transformers; look on "
            f"{_page(model)} for the model that it was made from and give that"
        )
    refuse_quantized(folder, model)


@contextmanager
def _in_one_sentence(model: str, revision: str) -> Iterator[None]:
    """Turn what the hub's client raises into a sentence with the remedy."""
    try:
        yield
    except HFValidationError as error:
        raise ExportError(
            f"there is no folder {model}, and as a model of the hub it would be ORG/NAME or "
            "ORG/NAME@REVISION; correct it"
        ) from error
    except _TROUBLES as error:
        raise ExportError(_sentence(error, model, revision)) from error


def _gated(_error: GatedRepoError, model: str, _revision: str) -> str:
    if get_token() is None:
        return f"{model} is gated: accept its terms on {_page(model)}, then {_LOG_IN}"
    return (
        f"{model} is gated, and the account that you are logged in with has no access to it: "
        f"accept its terms on {_page(model)}; a fine-grained token must also be allowed to read "
        "gated models"
    )


def _not_there(_error: RepositoryNotFoundError, model: str, _revision: str) -> str:
    return (
        f"there is no folder {model} and no model {model} on {constants.ENDPOINT}, or it is "
        f"private: correct the id; for a private one {_LOG_IN}"
    )


def _withdrawn(_error: DisabledRepoError, model: str, _revision: str) -> str:
    return f"{model} was withdrawn from the hub; choose another model"


def _no_revision(_error: RevisionNotFoundError, model: str, revision: str) -> str:
    return (
        f"{model} has no revision {revision}, or none any longer: give a branch, a tag or a whole "
        f"commit hash from {_page(model)}/commits/main, or {model} alone for the newest"
    )


def _not_cached(error: LocalEntryNotFoundError, model: str, revision: str) -> str:
    cause, cache = error.__cause__, constants.HF_HUB_CACHE
    if isinstance(cause, HfHubHTTPError):
        return _sentence(cause, model, revision)
    if constants.is_offline_mode():
        return (
            f"HF_HUB_OFFLINE is set, and the cache {cache} does not hold all of {model}: unset it, "
            "or copy the cache of a machine that has the model"
        )
    return (
        f"{constants.ENDPOINT} cannot be reached ({_first_line(cause or error)}), and the cache "
        f"{cache} does not hold all of {model}: connect (HTTPS_PROXY names a proxy), or copy the "
        "cache of a machine that has the model"
    )


def _answered(error: HfHubHTTPError, model: str, _revision: str) -> str:
    if error.response.status_code == 401:
        return f"{constants.ENDPOINT} does not take your token: {_LOG_IN}"
    return (
        f"{constants.ENDPOINT} answered {error.response.status_code} when asked for {model}: run "
        "the same again later; files that came whole are kept"
    )


# The first that fits; some are kinds of later ones.
_SENTENCES: tuple[tuple[type[Exception], Callable[[Any, str, str], str]], ...] = (
    (GatedRepoError, _gated),
    (RepositoryNotFoundError, _not_there),
    (DisabledRepoError, _withdrawn),
    (RevisionNotFoundError, _no_revision),
    (LocalEntryNotFoundError, _not_cached),
    (HfHubHTTPError, _answered),
)


def _sentence(error: Exception, model: str, revision: str) -> str:
    for kind, say in _SENTENCES:
        if isinstance(error, kind):
            return say(error, model, revision)
    if isinstance(error, OSError) and error.errno is not None:
        return (
            f"the cache {constants.HF_HUB_CACHE} cannot be written ({error.strerror}): make room, "
            "or set HF_HOME to another folder"
        )
    return (
        f"the transfer of {model} broke off ({_first_line(error)}): run the same again; files "
        "that came whole are kept"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _page(model: str) -> str:
    return f"{constants.ENDPOINT}/{model}"
