"""The code of a SAMA pipeline in one file, for diffusers' `trust_remote_code=True`; sama_video wrote it.

The comments below are its modules as they stand in the package sama_video. Run, this file writes them into a folder of
their own among the modules that diffusers keeps in its cache, named by a hash of what is in them, and takes the classes
from there. Nothing else is written, and nothing is fetched.
"""

import importlib
import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from diffusers.utils import HF_MODULES_CACHE

_PACKAGE, _FILE_MARK, _LINE_MARK = "PACKAGE", "FILE_MARK", "LINE_MARK"
_NEEDED = ("accelerate", "einops", "ftfy", "peft", "transformers")


def _unpacked(cache: Path) -> None:
    """Writes the modules aside and renames them, unless they are there; of two processes one is the first."""
    if (cache / _PACKAGE).is_dir():
        return
    cache.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=cache))
    lines: list[str] = []
    files = {"__init__.py": lines}
    for line in Path(__file__).read_text(encoding="utf-8").splitlines():
        if line.startswith(_FILE_MARK):
            lines = files[line.removeprefix(_FILE_MARK)] = []
        elif line.startswith(_LINE_MARK):
            lines.append(line.removeprefix(_LINE_MARK) + "\n")
    for name, lines in files.items():
        file = aside / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(lines), encoding="utf-8")
    try:
        os.rename(aside, cache / _PACKAGE)
    except OSError:
        shutil.rmtree(aside)
        if not (cache / _PACKAGE).is_dir():
            raise


if missing := [name for name in _NEEDED if find_spec(name) is None]:
    raise ImportError(f"this pipeline's code needs {', '.join(missing)}: pip install {' '.join(missing)}")
_unpacked(Path(HF_MODULES_CACHE))
if HF_MODULES_CACHE not in sys.path:
    sys.path.append(HF_MODULES_CACHE)
importlib.invalidate_caches()
SamaPipeline = importlib.import_module(f"{_PACKAGE}.pipelines.pipeline_sama").SamaPipeline
SamaTransformer3DModel = importlib.import_module(f"{_PACKAGE}.models.transformer_sama").SamaTransformer3DModel
AutoencoderSamaNano = importlib.import_module(f"{_PACKAGE}.models.autoencoder_sama_nano").AutoencoderSamaNano
