"""Out of the house: a trained model saved as sentence-transformers saves, and tried in another Python."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# what anyone would write elsewhere; where this package is not needed it cannot be imported either
ELSEWHERE = """\
import json, sys
if sys.argv[5] == "alone":
    sys.modules["lab"] = None
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], trust_remote_code=sys.argv[5] != "alone", device=sys.argv[4])
np.save(sys.argv[3], model.encode(json.load(open(sys.argv[2], encoding="utf-8")), show_progress_bar=False))
"""


def export(model: Any, folder: str | Path, texts: Sequence[str]) -> float:
    """Save a SentenceTransformer, load it in a fresh Python, and give the largest difference of its vectors.

    A pooling of the last layer that sentence-transformers has too (first, last, mean, max, the means by position and
    by the root of the length; no head) is written as its own `Pooling`: then the model loads where this package is not
    installed, and the fresh Python cannot import it. Any other needs this package where it loads, and
    trust_remote_code=True; loads_alone(folder) says which. The model itself stays as it is.

    texts: encoded here and there; max_ij |here_ij - there_ij|, some 1e-7 for float32 vectors of length 1 and 0 where
    both take the same paths.
    Raises ValueError for no text and a folder that holds other files, RuntimeError where it cannot be loaded, with what
    the other Python said.
    """
    folder, texts = Path(folder), list(texts)
    if not texts:
        raise ValueError("no text to compare by")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "modules.json").is_file())):
        raise ValueError(f"{folder} holds something that is no sentence-transformers model; give another folder")
    here = model.encode(texts, show_progress_bar=False)
    with _their_own(model):
        model.save(str(folder), create_model_card=False)
    with tempfile.TemporaryDirectory() as scratch:
        asked, given = Path(scratch, "texts.json"), Path(scratch, "vectors.npy")
        asked.write_text(json.dumps(texts), encoding="utf-8")
        how = "alone" if loads_alone(folder) else "with this package"
        command = [sys.executable, "-c", ELSEWHERE, str(folder), str(asked), str(given), str(model.device), how]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own words)
        if done.returncode:
            raise RuntimeError(f"{folder} cannot be loaded in a fresh Python: {done.stderr.strip()[-1000:]}")
        there = np.load(given)
    return float(np.abs(here - there).max())


def loads_alone(folder: str | Path) -> bool:
    """Whether a saved model has modules of sentence-transformers only, so that it loads without this package."""
    path = Path(folder, "modules.json")
    if not path.is_file():
        raise ValueError(f"{folder} is no saved sentence-transformers model: it has no modules.json")
    kinds, _ = json.JSONDecoder().raw_decode(path.read_text(encoding="utf-8"))  # what follows is the loader's to refuse
    return all(str(kind["type"]).startswith("sentence_transformers.") for kind in kinds)


@contextmanager
def _their_own(model: Any) -> Iterator[None]:
    """Poolings that sentence-transformers has too are its own ones for as long as this lasts."""
    from lab.pooling.interchange import TokenPooling, has_equal, to_sentence_transformers

    ours = {at: part for at, part in enumerate(model) if isinstance(part, TokenPooling) and has_equal(part)}
    try:
        for at, part in ours.items():
            model[at] = to_sentence_transformers(part)
        yield
    finally:
        for at, part in ours.items():
            model[at] = part
