"""Models on the Hugging Face hub: what is fetched, and what is uploaded.  Needs `pip install 'sde_diffusion[hub]'`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType

FETCHED = ("*.json", "*.safetensors", "*.md")  # never a pickle, never code
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_id(text: str) -> bool:
    """Whether a text looks like user/name."""
    return _ID.fullmatch(text) is not None


def check_id(text: str) -> None:
    """Raises ValueError unless a text looks like user/name."""
    if not is_id(text):
        raise ValueError(f"a model on the hub is called 'user/name', got {text!r}; put your user or organisation before it")


def download(repo_id: str, revision: str | None = None) -> Path:
    """The folder of a model on the hub, fetched unless it is in the cache already.

    Raises:
        ImportError: without huggingface_hub.
        OSError: if nothing could be fetched.
    """
    hub = _hub(f"fetch {repo_id!r}")
    try:
        return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=list(FETCHED)))
    except Exception as error:  # of a dozen kinds, and which one depends on the version
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        cure = "unset HF_HUB_OFFLINE" if offline else "check the name, the revision, the network and the access token (`hf auth login`)"
        what = f"{repo_id!r}" + (f" at revision {revision!r}" if revision else "")
        raise OSError(
            f"there is no folder {repo_id}, and nothing was fetched of {what} from the hub: {type(error).__name__}: {error}; {cure}, "
            "or give the folder of a model on this machine"
        ) from error


def upload(folder: Path, repo_id: str, *, private: bool, token: str | None, message: str, stale: str) -> str:
    """Creates the model on the hub unless it exists, uploads the folder as one commit and returns the URL.

    Args:
        folder: on this machine.
        repo_id: user/name.
        private: whether only its owners see it, if it is new.
        token: of access with the right to write; None for the one of `hf auth login`.
        message: of the commit.
        stale: pattern of the files that are removed from the hub if the folder has them no longer.

    Raises:
        ImportError: without huggingface_hub.
    """
    api = _hub(f"upload {repo_id!r}").HfApi(token=token)
    url = str(api.create_repo(repo_id, private=private, exist_ok=True))
    api.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message=message, delete_patterns=[stale])
    return url


def _hub(purpose: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(f"huggingface_hub is needed to {purpose}; pip install 'sde_diffusion[hub]'") from error
    return huggingface_hub
