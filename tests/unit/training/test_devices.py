"""What depends on the kind of device: sizes, TensorFloat-32, float64. The devices are described, none is at hand."""

from __future__ import annotations

import pytest
import torch

from llmctl.training import devices, objectives

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_more_rows_of_logits_at_once_on_an_accelerator() -> None:
    assert objectives.chunk_rows(CPU) == 256
    for kind in ("cuda", "xpu", "mps"):
        assert objectives.chunk_rows(torch.device(kind)) == 4096


def test_sums_are_float64_where_the_device_has_it() -> None:
    assert devices.exact_float(CPU) == devices.exact_float(GPU) == torch.float64
    assert devices.exact_float(torch.device("mps")) == torch.float32


@pytest.mark.parametrize(("capability", "able"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_since_ampere(capability: tuple[int, int], able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    try:
        assert devices.set_tf32(True, GPU) is able
        assert torch.get_float32_matmul_precision() == ("high" if able else "highest")
        assert devices.set_tf32(False, GPU) is False
    finally:
        assert devices.set_tf32(True, CPU) is False
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
