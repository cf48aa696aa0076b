"""Out of the house: a trained model saved as sentence-transformers saves, and tried where nothing of this is loaded."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# what anyone would write elsewhere
ELSEWHERE = """\
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device=sys.argv[4])
np.save(sys.argv[3], model.encode(json.load(open(sys.argv[2], encoding="utf-8")), show_progress_bar=False))
"""


def export(model: Any, folder: str | Path, texts: Sequence[str]) -> float:
    """Save a SentenceTransformer, load it in a fresh Python, and give the largest difference of its vectors.

    texts: encoded here and there; max_ij |here_ij - there_ij|, some 1e-7 for float32 vectors of length 1 and 0 where
    both take the same paths. The other Python has this package installed, which modules of lab.pooling need.
    Raises ValueError for no text and a folder that holds other files, RuntimeError where it cannot be loaded, with what
    the other Python said.
    """
    folder, texts = Path(folder), list(texts)
    if not texts:
        raise ValueError("no text to compare by")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "modules.json").is_file())):
        raise ValueError(f"{folder} holds something that is no sentence-transformers model; give another folder")
    model.save(str(folder), create_model_card=False)
    here = model.encode(texts, show_progress_bar=False)
    with tempfile.TemporaryDirectory() as scratch:
        asked, given = Path(scratch, "texts.json"), Path(scratch, "vectors.npy")
        asked.write_text(json.dumps(texts), encoding="utf-8")
        command = [sys.executable, "-c", ELSEWHERE, str(folder), str(asked), str(given), str(model.device)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own words)
        if done.returncode:
            raise RuntimeError(f"{folder} cannot be loaded in a fresh Python: {done.stderr.strip()[-1000:]}")
        there = np.load(given)
    return float(np.abs(here - there).max())
