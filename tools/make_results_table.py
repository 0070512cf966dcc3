"""Write the table of results into the README and the benchmark pages, in both languages.

    python tools/make_results_table.py                            from benchmarks/results/accuracy.json and float.json
    python tools/make_results_table.py --check                    write nothing; status 1 if a page is out of date
    python tools/make_results_table.py --score-float --assets DIR     score the float models first, into float.json

One row a network. Of ONNX Runtime's methods (min-max, percentile, entropy) the one with the highest SQNR is shown.
`benchmarks/accuracy.py` makes accuracy.json; what was not measured is shown as a dash.
"""

# ruff: noqa: RUF001  Chinese punctuation is meant

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blocks import ROOT, filled, refresh, table

RESULTS = ROOT / "benchmarks" / "results"
NAME = "results"
PEERS = {"ort-minmax": "min-max", "ort-percentile": "percentile", "ort-entropy": "entropy"}
Row = Mapping[str, Any]

# network: what it is and how many samples judge it, in English and in Chinese
NETWORKS = {
    "mobilenet_v2": ("MobileNetV2, 556 photos, 356 labelled", "MobileNetV2，556 张照片，356 张有标签"),
    "fmnist_mbv2": ("small MobileNetV2, Fashion-MNIST, 10,000", "小型 MobileNetV2，Fashion-MNIST，10000 张"),
    "fmnist_resnet": ("small ResNet, Fashion-MNIST, 10,000", "小型 ResNet，Fashion-MNIST，10000 张"),
    "ppocr_det": ("PP-OCR text detection, 40 pages", "PP-OCR 文本检测，40 页"),
    "ppocr_rec": ("PP-OCR text recognition, 150 lines", "PP-OCR 文本识别，150 行"),
    "silero_vad": ("Silero VAD, 8,800 frames", "Silero VAD，8800 帧"),
    "g2p_gru": ("grapheme-to-phoneme GRU, 1,000 words", "字形转音素 GRU，1000 个词"),
    "sentence_encoder": ("MiniLM sentence encoder, 400 pairs", "MiniLM 句向量模型，400 对"),
}
METRICS = {
    "top1": ("top-1", "top-1"),
    "F1@0.5": ("F1 at IoU 0.5", "F1（IoU 0.5）"),
    "character_error_rate": ("character error rate, lower is better", "字符错误率，越低越好"),
    "auc": ("AUC", "AUC"),
    "next_phoneme_acc": ("next-phoneme accuracy", "下一音素准确率"),
    "recall@1": ("recall@1", "recall@1"),
}
HEADS = (
    ("network", "metric", "float", "INT8 metric", "SQNR, dB", "latency / float", "size / float", "ORT method"),
    ("网络", "指标", "浮点", "INT8 指标", "SQNR（dB）", "延迟 / 浮点", "大小 / 浮点", "ORT 方法"),
)
PAGES = (("README.md", "docs/benchmarks.md"), ("README.zh-CN.md", "docs/zh/benchmarks.md"))


def rows_of(name: str) -> list[Row]:
    """The rows kept in a result file; none if it does not exist."""
    path = RESULTS / name
    return list(json.loads(path.read_text("utf-8"))["rows"]) if path.exists() else []


def best_peer(rows: list[Row]) -> Row:
    """Of ONNX Runtime's rows the one with the highest SQNR; an empty row if none ran."""
    ran = [row for row in rows if row["tool"] in PEERS and "sqnr_db" in row]
    return max(ran, key=lambda row: float(row["sqnr_db"]), default={})


def results_table(language: int) -> str:
    """The table in English (0) or Chinese (1); cells with a slash are Halfeven / ONNX Runtime."""
    measured, floats = rows_of("accuracy.json"), {row["network"]: row for row in rows_of("float.json")}
    lines = []
    for network, names in NETWORKS.items():
        rows = [row for row in measured if row["network"] == network]
        if not rows:
            continue
        own: Row = next((row for row in rows if row["tool"] == "halfeven" and "sqnr_db" in row), {})
        peer = best_peer(rows)
        metric = str(own.get("metric", peer.get("metric", "")))
        pairs = [
            f"{_figure(own, key, form)} / {_figure(peer, key, form)}"
            for key, form in (("value", ".4f"), ("sqnr_db", ".1f"), ("cpu_ratio", ".2f"), ("size_ratio", ".2f"))
        ]
        known = METRICS.get(metric, (metric, metric))[language]
        before = _figure(floats.get(network, {}), "value", ".4f")
        lines.append((names[language], known, before, *pairs, PEERS.get(str(peer.get("tool")), "-")))
    return table(HEADS[language], lines)


def _figure(row: Row, key: str, form: str) -> str:
    return format(row[key], form) if key in row else "-"


def pages() -> dict[Path, str]:
    """Every page with the table as it should be."""
    found = {}
    for language, names in enumerate(PAGES):
        for path in (ROOT / name for name in names):
            found[path] = filled(path.read_text("utf-8"), NAME, results_table(language))
    return found


def score_floats(args: argparse.Namespace) -> None:
    """Score the float models like the INT8 ones, into float.json."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import measure
    import networks

    for network in networks.find(args.assets, args.sentence_encoder, args.networks):
        score = measure.score(network, network.model)
        row = {"network": network.name, "metric": score.get("metric"), "value": score.get("value")}
        measure.keep("float.json", row, ("network",))
        print(row, flush=True)


def main() -> None:
    """Refresh the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a page is out of date")
    parser.add_argument("--score-float", action="store_true", help="score the float models first")
    parser.add_argument("--assets", type=Path, metavar="DIR", help="as for benchmarks/accuracy.py")
    parser.add_argument("--sentence-encoder", type=Path, metavar="PATH", help="float file of the sentence encoder")
    parser.add_argument("--networks", nargs="+", default=[], metavar="NAME", help="score these only")
    args = parser.parse_args()
    if args.score_float:
        score_floats(args)
    refresh(pages(), args.check)


if __name__ == "__main__":
    main()
