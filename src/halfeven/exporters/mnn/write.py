"""A quantized network as MNN's .mnn file: made by MNN's own converter, which is given the network and its scales.

MNN's file format is its converter's own business and changes with it; so the converter of the installed package writes
it, in a process of its own, and MNN runs it once beside the QDQ network before it is kept. Source: MNN 3.6.1.
"""

import tempfile
from pathlib import Path

from halfeven.draft import Draft
from halfeven.exporters.mnn.table import table_of, text_of
from halfeven.exporters.mnn.wrong import prove
from halfeven.files import write_file
from halfeven.graph.saving import save
from halfeven.run.mnn import convert_onnx
from halfeven.wording import counted


def write_mnn(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write the draft as a .mnn file.

    Raises:
        BadOption: MNN is not installed, or the file cannot be written.
        UnsupportedByTarget: codes of other than 8 bits, no layer that MNN runs on codes, or an operator, or a whole
            network, that it computes wrongly.
        UnsupportedModel: MNN's converter refuses the network.
    """
    network, notes = table_of(draft)
    with tempfile.TemporaryDirectory(prefix="halfeven-") as folder:
        source, table, made = (Path(folder) / name for name in ("network.onnx", "table.json", "network.mnn"))
        save(network.model, source)
        table.write_text(text_of(network), "utf-8")
        convert_onnx(source, made, table if network.layers else None)
        unproved = prove(draft, made)
        content = made.read_bytes()
    write_file(path, lambda file: file.write(content))
    said = f"{counted(len(network.layers), 'layer')} given to MNN's converter with scales; all others run in float"
    return (*((said,) if network.layers else ()), *notes, *unproved)
