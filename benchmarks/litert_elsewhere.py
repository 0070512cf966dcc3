"""Runs .tflite files with LiteRT for another process, which may have another processor: what it sends, it gets back.

    python litert_elsewhere.py KERNELS          one of AUTO, BUILTIN_WITHOUT_DEFAULT_DELEGATES, BUILTIN_REF

Both ways go messages of an 8-byte little-endian length and a NumPy .npz of as many bytes. Asked: `model`, the file's
bytes, and the inputs by their index, `0`, `1`, ... Answered: the outputs likewise, or `error`, a text. It needs
ai-edge-litert and NumPy alone.
"""

import io
import sys
from typing import IO, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def sent(stream: IO[bytes], arrays: dict[str, Any]) -> None:
    """Write a message."""
    held = io.BytesIO()
    np.savez(held, **arrays)
    content = held.getvalue()
    stream.write(len(content).to_bytes(8, "little") + content)
    stream.flush()


def received(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read a message; None: there is none any more."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    with np.load(io.BytesIO(stream.read(int.from_bytes(head, "little"))), allow_pickle=False) as found:
        return dict(found)


def answer(asked: dict[str, Any], kernels: str) -> dict[str, Any]:
    """Run one file."""
    runner = Interpreter(
        model_content=asked["model"].tobytes(), num_threads=1, experimental_op_resolver_type=OpResolverType[kernels]
    )
    runner.allocate_tensors()
    for number, detail in enumerate(runner.get_input_details()):
        runner.set_tensor(detail["index"], asked[str(number)])
    runner.invoke()
    return {str(i): runner.get_tensor(detail["index"]) for i, detail in enumerate(runner.get_output_details())}


def main() -> None:
    """Answer until nothing more is asked."""
    while (asked := received(sys.stdin.buffer)) is not None:
        try:
            found = answer(asked, sys.argv[1])
        except (RuntimeError, ValueError) as error:
            found = {"error": np.array(str(error))}
        sent(sys.stdout.buffer, found)


if __name__ == "__main__":
    main()
