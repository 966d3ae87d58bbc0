"""The claim on LeNet-5, on the whole of MNIST or Fashion-MNIST by an override, with files in their layout."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from normzoo.claims._cells import frame
from normzoo.claims.lenet5_mnist import draw, judge
from normzoo.training.cell import run_cell
from tests.data.generated_data import write_idx_folder


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist"])
def test_the_experiment_runs_on_the_whole_data_sets(data: str, tmp_path: Path) -> None:
    write_idx_folder(tmp_path / "files", train=128, val=20)
    records = []
    for norm in ("identity", "batch_norm"):
        for scaling in ("zscore", "minmax"):
            with initialize_config_module("normzoo.conf", version_base="1.3"):
                cell = compose(
                    "train",
                    [
                        "experiment=lenet5_mnist", f"data={data}", f"data.root={tmp_path / 'files'}",
                        f"norm={norm}", f"data.scaling={scaling}", "trainer.max_epochs=1",
                    ],
                )  # fmt: skip
                config: Any = OmegaConf.to_container(cell, resolve=True)
            found = run_cell(config, tmp_path / norm / scaling)
            assert found is not None
            assert (found.status, config["data"]["image_size"], found.metrics["steps"]) == ("ok", 32, 2)
            records.append(found)
    finding = judge(frame(records))
    assert (len(finding.checks), finding.unmeasured) == (6, 0)
    draw(frame(records), figure := Figure())
    assert figure.axes[1].get_title("left") == f"Accuracy, all training images of {data}"
