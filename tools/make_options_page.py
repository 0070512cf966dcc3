"""Write the table of the steps' options into docs/options.md and docs/zh/options.md.

    python tools/make_options_page.py            from halfeven.options.all_options()
    python tools/make_options_page.py --check    write nothing; status 1 if a page is out of date

The English texts are those below the fields; an option without a Chinese text in CHINESE is an error.
"""

# ruff: noqa: RUF001  Chinese punctuation is meant

import argparse
from pathlib import Path

from blocks import ROOT, filled, refresh, table

from halfeven.options import Option, all_options

NAME = "options"
PAGES = ("docs/options.md", "docs/zh/options.md")
HEADS = (
    ("command line", "Python", "configuration file", "default", "meaning"),
    ("命令行", "Python", "配置文件", "默认值", "含义"),
)
CHINESE = {
    "simplify_opset": "把较旧的模型提升到此 opset（13 起才支持逐通道缩放因子）；较新的模型保持原样。",
    "keep_float": "保持浮点的节点：按节点名或算子类型匹配的通配模式（glob）。",
    "prefer": "`speed`：只量化在目标上确有收益的部分。`size`：量化所有能量化的权重。",
    "mode": "`static`：激活值用由数据得出的缩放因子。`dynamic`：激活值的缩放因子在每次运行时求得。`weight-only`："
    "只量化权重；文件变小，运行时仍以浮点计算。`float`：什么都不量化。",
    "bits": "用于 static 和 weight-only：MatMul 和 Gemm 权重的位数，8 或 4。",
    "conv_bits": "用于 static 和 weight-only：Conv 和 ConvTranspose 权重的位数，8 或 4；4 位只用于存储，以浮点计算。",
    "reduce_range": "用于 static 和 dynamic：权重用 7 位（-63 到 63）的层，其乘积在没有 VNNI 的 x86 上不会饱和："
    "按节点名或算子类型匹配的通配模式（glob）。",
    "activation_bits": "用于 static：激活值的位数，8 或 16；16 位由 ONNX Runtime 以浮点计算。",
    "block": "用于 weight-only：一个输出中多少个权重共用一个缩放因子：16、32、64 或 128；0 表示全部。",
    "block_scales": "用于 weight-only 的 4 位分块：`integer` 使各块的缩放因子为其通道缩放因子的 1 至 16 倍（LPBQ）。",
    "zero_points": "用于 weight-only：`free` 使 MatMul 和 Gemm 的每个缩放因子都带一个零点。",
    "absorb_deviations": "无数据时：通道的均值以下多少个标准差之外可以因移走偏置而被截去；0 表示不移动。",
    "expect_deviations": "无数据时：认为每个通道的取值在均值两侧多少个标准差之内；0 表示改用噪声观察。",
    "equalize_samples": "用多少个样本统计各通道的范围；0 表示跳过此步骤。",
    "equalize_limit": "均衡因子的上限。",
    "equalize_headroom": "余量：通道的实际取值可以超出样本所见多少倍，才会决定整个张量的范围。",
    "observe_elements": "每个样本中，每个张量计入直方图的元素数（约数）；最大最小值总是统计全部元素。",
    "observe_moments": "用前多少个样本统计各层输入的二阶矩；0 表示不统计。",
    "observe_vectors": "每个样本中，每层取多少个输入向量统计二阶矩。",
    "calibrate": "minmax、moving-average（滑动平均）、percentile（百分位）、entropy（KL 散度）、mse、lp、aciq、octav、"
    "sigma、admm，或 auto：逐张量在 minmax、percentile、entropy、mse 中选取期望误差最小的方法。",
    "percentile": "用于 percentile 和 auto：保留的数值比例，单位为百分之一。",
    "calibrate_p": "用于 lp：误差的幂次，1 到 16。",
    "calibrate_sigmas": "用于 sigma：均值两侧各保留多少个标准差。",
    "tensors": "为部分张量指定其他方法：PATTERN=METHOD，模式按张量名匹配，以首个匹配者为准。",
    "float_dtype": "未量化部分的类型：fp32、fp16（float16）或 bf16（bfloat16）。",
    "keep_fp32": "保持 float32 的节点：按节点名或算子类型匹配的通配模式（glob）。",
    "half_headroom": "用于 fp16：数值可以增大到样本所见的多少倍而不溢出。",
    "half_samples": "用于 fp16：用多少个样本检查溢出。",
    "half_interface": "浮点输入和输出的类型：fp32，或与内部相同（same）。",
    "gptq_damping": "阻尼：加到每个方差上的量，为平均方差的这一比例；越大则越不依赖数据。",
}


def row(option: Option, language: int) -> tuple[str, ...]:
    """One option's line; one that can be given several times has a list in Python and in the file."""
    metavar = "|".join(option.choices) or option.field.upper()
    default = "[]" if option.many else str(option.default)
    text = (option.help, CHINESE[option.name])[language]
    return f"`{option.flag} {metavar}`", f"`{option.name}`", f"`[{option.step}] {option.field}`", f"`{default}`", text


def options_table(language: int) -> str:
    """All options in English (0) or Chinese (1), in the order of the steps."""
    return table(HEADS[language], [row(option, language) for option in all_options().values()])


def pages() -> dict[Path, str]:
    """Both pages with the table as it should be."""
    paths = [ROOT / name for name in PAGES]
    return {path: filled(path.read_text("utf-8"), NAME, options_table(i)) for i, path in enumerate(paths)}


def main() -> None:
    """Refresh the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a page is out of date")
    refresh(pages(), parser.parse_args().check)


if __name__ == "__main__":
    main()
