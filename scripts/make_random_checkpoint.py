"""Writes a checkpoint with random weights, in Hugging Face format, to measure speed with.

python scripts/make_random_checkpoint.py --shape opt-125m --tokenizer TOKENIZER_DIR --out DIR

Tensors are made and written one at a time, so that every size needs little memory (``--format
bin`` holds one shard). opt-125m in float16 takes 3 seconds and 250 MB of disk.
"""

import argparse
import math
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np

from zojax.errors import InputError
from zojax.hub.saving import save_tensors
from zojax.hub.stored import DTYPES
from zojax.hub.tensor_names import tensor_shapes
from zojax.models.registry import SHAPES

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Initial values: matrices N(0, 0.02²), biases 0, norms 1; float32."""
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    # Keyed by name, so that a tensor does not depend on the order of writing.
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = random.standard_normal(shape, np.float32)
    values *= 0.02
    return values


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint with random weights in Hugging Face format.",
        epilog="example: python scripts/make_random_checkpoint.py --shape opt-125m "
        "--tokenizer data/opt-tokenizer --out checkpoints/opt-125m-random --dtype float16",
    )
    parser.add_argument("--shape", required=True, choices=SHAPES, help="published size")
    parser.add_argument("--tokenizer", type=Path, help="directory whose tokenizer files are copied")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument("--dtype", default="float16", choices=DTYPES, help="default: float16")
    parser.add_argument("--format", default="safetensors", choices=["safetensors", "bin"])
    parser.add_argument("--max-shard-bytes", type=int, default=5_000_000_000)
    args = parser.parse_args(argv)

    tokenizer_files = []
    if args.tokenizer is not None:
        tokenizer_files = [f for name in _TOKENIZER_FILES if (f := args.tokenizer / name).is_file()]
        if not tokenizer_files:
            raise InputError(f"{args.tokenizer}: holds no tokenizer files")

    config = SHAPES[args.shape]
    shapes = tensor_shapes(config)
    save_tensors(
        config,
        args.out,
        lambda name: random_tensor(name, shapes[name], args.seed),
        dtype=args.dtype,
        metadata={"made_by": "scripts/make_random_checkpoint.py", "seed": str(args.seed)},
        max_shard_bytes=args.max_shard_bytes,
        format=args.format,
    )
    for file in tokenizer_files:
        shutil.copyfile(file, args.out / file.name)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    print(f"{args.out}: {args.shape}, {parameters:,} random parameters in {args.dtype}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
