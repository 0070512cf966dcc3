# ruff: noqa: E402
"""Promised: a prepared network is trained by Lightning's Trainer and by that of Hugging Face as by any loop: it fits,
is saved, goes on from what was saved to the bit, and what is exported from it gives the outputs of the network.

They are run where these packages are installed.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from halfeven import qat
from halfeven.run.ort import OrtExecutor

nn = torch.nn

pytestmark = [
    pytest.mark.filterwarnings("default"),  # what these packages warn of on import and on a machine without a GPU
    pytest.mark.usefixtures("one_thread"),
]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.inner, self.head = nn.Conv2d(6, 6, 3, 1, 1), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.inner(x) + x).mean((2, 3)))


def batches(count: int) -> tuple[Any, Any]:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    return torch.randn(count, 1, 8, 8, generator=rng) + y.reshape(-1, 1, 1, 1), y


@pytest.fixture(scope="module")
def original() -> Any:
    torch.manual_seed(0)
    module, (x, _) = Small().train(), batches(24)
    for _ in range(20):
        module(x)
    return qat.prepare(module.eval(), x, weight_bits=4)


def same_state(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def same_in_onnx_runtime(network: Any, path: Path) -> bool:
    """Whether the exported file, run without optimization, gives the outputs up to the order of sums."""
    network.eval()
    qat.export(network, path)
    x, run = batches(24)[0], OrtExecutor(path, optimize=False)
    ours, (theirs,) = network(x).detach().numpy(), run({"x": x.numpy()}).values()
    return bool(np.mean(np.abs(ours - theirs) > 1e-5 * np.abs(ours).max()) < 0.03)


def test_lightning_fits_saves_and_goes_on(original: Any, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")

    class Training(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, _: int) -> Any:
            x, y = batch
            loss = nn.functional.cross_entropy(self.network(x), y)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), 1e-2)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    def fit(epochs: int, **more: Any) -> Any:
        training = Training(copy.deepcopy(original))
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batches(24)), batch_size=8)
        trainer.fit(training, loader, **more)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return training.network

    half, whole = fit(1), fit(2)
    assert not same_state(half, original)
    resumed = fit(2, ckpt_path=tmp_path / "1.ckpt")
    assert same_state(resumed, whole)
    assert same_in_onnx_runtime(resumed, tmp_path / "m.onnx")


def fit_by_hugging_face(network: Any, data: list[dict[str, Any]], folder: Path, steps: int, **more: Any) -> Any:
    """The network, trained; its state is saved every three steps."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate, which Trainer needs, is not installed")

    def loss_of(outputs: Any, labels: Any, **_: Any) -> Any:
        return nn.functional.cross_entropy(outputs["logits"] if isinstance(outputs, dict) else outputs, labels)

    network = copy.deepcopy(network)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=8, learning_rate=1e-2, report_to=[],
        lr_scheduler_type="constant", save_steps=3, use_cpu=True, disable_tqdm=True, remove_unused_columns=False, seed=0,
    )  # fmt: skip
    trainer = transformers.Trainer(network, arguments, train_dataset=data, compute_loss_func=loss_of)
    trainer.train(**more)
    return network


def test_the_trainer_of_hugging_face_fits_saves_and_goes_on(original: Any, tmp_path: Path) -> None:
    data = [{"x": x, "labels": y} for x, y in zip(*batches(24), strict=True)]
    whole = fit_by_hugging_face(original, data, tmp_path, 6)
    assert not same_state(whole, original)
    resumed = fit_by_hugging_face(original, data, tmp_path, 6, resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert same_state(resumed, whole)
    assert same_in_onnx_runtime(resumed, tmp_path / "m.onnx")


def test_a_model_of_transformers_is_trained_by_its_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_channels=1, num_labels=3,
    )  # fmt: skip
    x, y = batches(24)
    network = qat.prepare(transformers.ViTForImageClassification(config).eval(), {"pixel_values": x})
    data = [{"pixel_values": one, "labels": label} for one, label in zip(x, y, strict=True)]
    trained = fit_by_hugging_face(network, data, tmp_path, 4).eval()
    assert not same_state(trained, network)
    qat.export(trained, tmp_path / "m.onnx")
    ours = trained(pixel_values=x)["logits"].detach().numpy()
    (theirs,) = OrtExecutor(tmp_path / "m.onnx", optimize=False)({"pixel_values": x.numpy()}).values()
    assert np.mean(np.abs(ours - theirs) > 1e-5 * np.abs(ours).max()) < 0.03
