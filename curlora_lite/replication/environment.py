"""What a command needs around it: folders that it may write, and quiet."""

import contextlib
import logging
import os
import warnings
from pathlib import Path

import transformers
from huggingface_hub import constants

from . import fetch

# environment variable -> folder, of what libraries would keep in the user's home
FOLDERS = {"HF_HOME": "huggingface", "MPLCONFIGDIR": "matplotlib", "IPYTHONDIR": "ipython"}
FOLDERS |= {f"JUPYTER_{n.upper()}_DIR": f"jupyter/{n}" for n in ("config", "data", "runtime")}
FOLDERS |= {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def settle(folder=None):
    """Free a command, and all that it starts, from the user's home.

    What libraries keep goes below `folder` (None: `home` in the cache) unless the user has named
    another place, which can be written. CannotWriteError where `folder` cannot be. The hub's token
    stays where it is.
    """
    os.environ.setdefault("HF_TOKEN_PATH", constants.HF_TOKEN_PATH)
    for name in filter(os.environ.get, ("CURLORA_CACHE", "CURLORA_MIRROR", "CURLORA_RESULTS")):
        os.environ[name] = os.path.abspath(os.environ[name])  # kernels and jobs start elsewhere
    for name, own in FOLDERS.items():
        if named := os.environ.get(name):
            with contextlib.suppress(fetch.CannotWriteError):
                fetch.need(Path(named).expanduser())
                continue
        kept = Path(folder or fetch.cache_dir() / "home", own)
        fetch.need(kept)
        os.environ[name] = str(kept)


def quiet():
    """Keep the libraries' own progress bars, warnings and advice out of ours."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("papermill").setLevel(logging.ERROR)
