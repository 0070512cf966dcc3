"""Write the tables of targets into docs/targets.md, those of formats into docs/deploy.md, and into their Chinese twins.

    python tools/targets_page.py            from halfeven.targets.TARGETS and the registries of formats
    python tools/targets_page.py --check    write nothing; status 1 if a page is out of date

Of targets first one row for each, then for each target one row for each row of its table. Of formats those that can be
written and those that can be read. What has no Chinese text in CHINESE is told in English on both pages.
"""

# ruff: noqa: RUF001  Chinese punctuation is meant

import argparse
from pathlib import Path

from blocks import ROOT, filled, refresh, table

from halfeven.exporters.formats import FORMATS, target_of
from halfeven.importers.formats import IMPORTS
from halfeven.numerics.scheme import ScaleRule, Scheme
from halfeven.targets import TARGETS
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import OpRule, Target

TARGET_PAGES = ("docs/targets.md", "docs/zh/targets.md")
FORMAT_PAGES = ("docs/deploy.md", "docs/zh/deploy.md")
HEADS = (
    ("name", "activations", "weights", "bias", "rounding", "formats", "costs"),
    ("名称", "激活", "权重", "偏置", "舍入", "格式", "开销"),
)
RULES = (
    ("operators", "activations", "weights", "output", "absorbs", "conditions"),
    ("算子", "激活", "权重", "输出", "融合", "条件"),
)
WORDS: dict[str, tuple[str, str]] = {
    "symmetric": ("symmetric", "对称"),
    "affine": ("affine", "非对称"),
    "powers": ("powers of two", "2 的幂"),
    "tensor": ("one scale", "逐张量"),
    "channel": ("one for each output channel", "逐输出通道"),
    "float": ("float", "浮点"),
    "own": ("scale of its own", "自己的缩放因子"),
    "as_input": ("scale of the input", "与输入共用缩放因子"),
    "either": ("codes or floats, as its readers need", "整数或浮点，依读取者而定"),
    "fixed": ("fixed: scale {:.6g}, zero point {}", "固定：缩放因子 {:.6g}，零点 {}"),
    "only": ("{} = {}", "{} = {}"),
    "without": ("without {}", "不带 {}"),
    "tensors": ("of two tensors", "两个张量"),
    "skip": ("of two summands the skip alone", "两个加数中只量化跳接"),
    "ports": ("input {} alone", "只有输入 {}"),
    "second": ("of two activations, the second {}", "两个激活相乘，第二个 {}"),
    "measured": ("measured", "实测"),
    "unmeasured": ("not measured", "未测"),
    "also": ("; also runs {}", "；也能运行 {}"),
    "source": ("Source: {}", "来源：{}"),
    "writes": ("Written as: {}", "写出格式：{}"),
    "moving": ("Scales found in each run (`--mode dynamic`): {}", "每次运行时求缩放因子（`--mode dynamic`）：{}"),
    "refused": ("none, such a plan is refused", "无，这样的方案会被拒绝"),
    "none": ("none here yet", "暂无"),
    "and": (", ", "、"),
}
CHINESE = {
    "ONNX with QuantizeLinear and DequantizeLinear": "带 QuantizeLinear 与 DequantizeLinear 的 ONNX",
    "ONNX with integer operators": "带整数算子的 ONNX",
    "ONNX with MatMulNBits: weights alone, of 4 or 8 bits": "带 MatMulNBits 的 ONNX：只量化权重，4 或 8 位",
    "the same, activations int8 inside the kernel": "同上，激活在核内为 int8",
    "C99 for bare metal, integers only": "裸机用 C99 代码，只用整数",
    "ncnn, int8, with its .bin beside": "ncnn，int8，旁边有 .bin",
    "TNN, int8, with its .tnnmodel beside": "TNN，int8，旁边有 .tnnmodel",
    "OpenVINO IR with FakeQuantize, its .bin beside": "带 FakeQuantize 的 OpenVINO IR，旁边有 .bin",
    "TensorRT's calibration cache": "TensorRT 的校准缓存",
    "the same of its min-max calibrator": "同上，来自其 min-max 校准器",
    "TensorRT: scales, and nodes in half precision": "TensorRT：缩放因子，以及使用半精度的节点",
    "ONNX Runtime's calibration ranges": "ONNX Runtime 的校准范围",
    "PPQ's own config of each operator and tensor": "PPQ 自己的配置，逐算子逐张量",
    "MNN's quantization parameters": "MNN 的量化参数",
    "Vitis AI's fix positions": "Vitis AI 的定点位置",
    "ncnn's calibration table": "ncnn 的校准表",
    "every scale in plain JSON, for closed toolchains": "以普通 JSON 列出全部缩放因子，用于封闭的工具链",
    "a plan of Halfeven (JSON)": "Halfeven 的方案（JSON）",
    "a neutral table of Halfeven (JSON)": "Halfeven 的中立表格（JSON）",
}


def codes(scheme: Scheme, language: int) -> str:
    """For instance `int8 -127..127 symmetric`."""
    grid, rule = scheme.grid, "symmetric" if scheme.symmetric else "affine"
    limits = f" {grid.low}..{grid.high}" if grid.narrow else ""
    powers = f" {WORDS['powers'][language]}" if scheme.scale is ScaleRule.POWER_OF_TWO else ""
    return f"{str(grid).split()[0]}{limits} {WORDS[rule][language]}{powers}"


def distinct(texts: list[str], language: int) -> str:
    """Texts in a row, each once."""
    return WORDS["and"][language].join(dict.fromkeys(texts))


def weight(scheme: Scheme, language: int) -> str:
    """Codes, and which elements share a scale."""
    grain = "channel" if scheme.tiling.axis is not None else "tensor"
    return f"{codes(scheme, language)}, {WORDS[grain][language]}"


def bias(target: Target, language: int) -> str:
    """The type of a bias."""
    bits = target.numerics.bias_bits
    return f"int{bits} {WORDS['symmetric'][language]}" if bits else WORDS["float"][language]


def summary(target: Target, language: int) -> tuple[str, ...]:
    """A target's row in the first table."""
    chosen = [codes(rule.data, language) for rule in target.rules]
    others = [text for scheme in target.takes if (text := codes(scheme, language)) not in chosen]
    data = distinct(chosen, language)
    also = WORDS["also"][language].format(distinct(others, language)) if others else ""
    weights = distinct([weight(rule.weight, language) for rule in target.rules if rule.weight is not None], language)
    formats = [f"`{name}`" for name in target.formats if name in FORMATS]
    costs = WORDS["unmeasured" if target.costs is UNIFORM else "measured"][language]
    rounding = f"`{target.numerics.profile or target.numerics.rounding}`"
    served = distinct(formats, language) or WORDS["none"][language]
    return f"`{target.name}`", data + also, weights, bias(target, language), rounding, served, costs


def conditions(rule: OpRule, language: int) -> str:
    """What must hold of a node beside its operator."""
    found = []
    for name, allowed in rule.where.items():
        if allowed[0] is None:
            found.append(WORDS["without"][language].format(name))
        else:
            found.append(WORDS["only"][language].format(name, allowed[0]))
    if not rule.constants:
        found.append(WORDS["tensors"][language])
    if rule.residual:
        found.append(WORDS["skip"][language])
    if rule.ports is not None:
        found.append(WORDS["ports"][language].format(", ".join(map(str, rule.ports))))
    if rule.second is not None:
        found.append(WORDS["second"][language].format(codes(rule.second, language)))
    return distinct(found, language)


def row(rule: OpRule, language: int) -> tuple[str, ...]:
    """One row of a target's table."""
    output = WORDS[rule.output][language]
    if rule.fixed is not None:
        output = WORDS["fixed"][language].format(*rule.fixed)
    weights = "" if rule.weight is None else weight(rule.weight, language)
    operators = ", ".join(rule.ops)
    return operators, codes(rule.data, language), weights, output, ", ".join(rule.fuses), conditions(rule, language)


def block(language: int) -> str:
    """All tables in English (0) or Chinese (1)."""
    parts = [table(HEADS[language], [summary(target, language) for target in TARGETS.values()])]
    for target in TARGETS.values():
        formats = [f"`{name}` ({FORMATS[name].suffix})" for name in target.formats if name in FORMATS]
        served = distinct(formats, language) or WORDS["none"][language]
        moving = distinct(list(target.dynamic), language) or WORDS["refused"][language]
        said = (
            WORDS["source"][language].format(target.source),
            WORDS["writes"][language].format(served),
            WORDS["moving"][language].format(moving),
        )
        rows = table(RULES[language], [row(rule, language) for rule in target.rules])
        parts.append(f"### `{target.name}`\n\n{rows}\n\n" + "\n\n".join(f"{text}." for text in said))
    return "\n\n".join(parts)


def formats(language: int) -> str:
    """What can be written."""
    heads = (("`--format`", "file", "what it is", "target"), ("`--format`", "文件", "说明", "目标"))[language]
    rows = [
        (f"`{name}`", entry.suffix, said(entry.what, language), f"`{target_of(name)}`")
        for name, entry in FORMATS.items()
    ]
    return table(heads, rows)


def imports(language: int) -> str:
    """What can be read."""
    heads = (("name", "what it is"), ("名称", "说明"))[language]
    return table(heads, [(f"`{name}`", said(entry.what, language)) for name, entry in IMPORTS.items()])


def said(text: str, language: int) -> str:
    """The text, in Chinese where there is one."""
    return CHINESE.get(text, text) if language else text


def pages() -> dict[Path, str]:
    """All pages with the tables as they should be."""
    found = {
        ROOT / name: filled((ROOT / name).read_text("utf-8"), "targets", block(i))
        for i, name in enumerate(TARGET_PAGES)
    }
    for i, name in enumerate(FORMAT_PAGES):
        text = filled((ROOT / name).read_text("utf-8"), "formats", formats(i))
        found[ROOT / name] = filled(text, "imports", imports(i))
    return found


def main() -> None:
    """Refresh the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a page is out of date")
    refresh(pages(), parser.parse_args().check)


if __name__ == "__main__":
    main()
