"""What a format cannot store, said in terms of what was asked for, not of the nodes that it made.

half precision    --float-dtype fp16 or bf16 lets what is not quantized compute in 16 bits, with a Cast at each border.
Casts alone, at inputs and outputs of a network that is stored in float16, are no such thing
weights alone     --mode weight-only or dynamic: a runtime whose int8 layers need a scale of what they read would be
given the weights as float32
"""

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.interface import HALVES
from halfeven.graph.plan import DYNAMIC
from halfeven.wording import counted


def refuse_halves(draft: Draft, runtime: str) -> None:
    """Refuse a draft with nodes that compute in 16 bits.

    Raises:
        UnsupportedByTarget: there is one; names the first.
    """
    nodes = [
        node
        for node in draft.model.graph
        if node.op_type != "Cast" and any(v is not None and v.dtype in HALVES for v in (*node.inputs, *node.outputs))
    ]
    if nodes:
        first = nodes[0]
        raise UnsupportedByTarget(
            f"--float-dtype makes {counted(len(nodes), 'node')} compute in 16 bits, the first being {first.op_type} "
            f"'{first.name}'; files for {runtime} are written in integers and float32 alone. Leave --float-dtype out, "
            "or choose --format qdq or openvino-ir."
        )


def refuse_weights_alone(draft: Draft, runtime: str) -> None:
    """Refuse a draft whose weights have codes while no activation has a scale.

    Raises:
        UnsupportedByTarget: it is one.
    """
    found = draft.plan.groups.values()
    scaled = any(q.role == "activation" and q.method != DYNAMIC for q in found)
    if not scaled and any(q.role == "weight" for q in found):
        raise UnsupportedByTarget(
            f"{runtime} runs a layer in int8 only with a scale of what it reads: weights alone would be stored as "
            "float32, and the file be no smaller. Use --mode static, or --format tflite, openvino-ir or qdq."
        )
